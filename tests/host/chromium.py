"""Headless Chromium over its own protocol, through pipes: no package, no port, no driver program.

    with Chromium() as browser:
        page = browser.open("http://127.0.0.1:8000/", width=1280, height=900, dark=False)
        page.wait_for("document.title"); page.screenshot(path)

As a program: `python tests/host/chromium.py URL PICTURE.png [WIDTH HEIGHT [dark]]` waits for clips and takes a picture.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import deque
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
PROGRAM = next((found for name in NAMES if (found := shutil.which(name))), "")
"""The browser of this machine; empty if there is none."""

QUIET = """--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
    --disable-component-update --disable-sync --disable-dev-shm-usage --hide-scrollbars
    --remote-debugging-pipe""".split()


class Chromium:
    """A browser; a context manager. TimeoutError where it does not answer."""

    def __init__(self, timeout: float = 30.0) -> None:
        self.timeout, self._number = timeout, 0
        self.events: deque[dict[str, Any]] = deque()
        self._profile = tempfile.mkdtemp(prefix="spikeloom-chromium-")
        to_browser, self._write = os.pipe()
        self._read, from_browser = os.pipe()

        def as_3_and_4() -> None:
            high = os.dup(from_browser), os.dup(to_browser)
            os.dup2(high[1], 3)
            os.dup2(high[0], 4)

        self._process = subprocess.Popen(
            [PROGRAM, *QUIET, f"--user-data-dir={self._profile}", "about:blank"], preexec_fn=as_3_and_4,
            close_fds=False, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(to_browser)
        os.close(from_browser)
        os.set_blocking(self._read, False)
        self._buffer = b""

    def __enter__(self) -> Chromium:
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._write)
        os.close(self._read)
        shutil.rmtree(self._profile, ignore_errors=True)

    def open(self, url: str, *, width: int, height: int, dark: bool = False) -> Page:
        """A page of its own, with that viewport and colour scheme."""
        target = self.call("Target.createTarget", {"url": "about:blank"})["targetId"]
        session = self.call("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        page = Page(self, session)
        for domain in ("Page", "Runtime", "Log"):
            page.call(f"{domain}.enable")
        page.call("Emulation.setDeviceMetricsOverride", {
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600})
        page.call("Emulation.setEmulatedMedia", {
            "features": [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]})
        page.call("Page.navigate", {"url": url})
        page.wait_for("location.href !== 'about:blank' && document.readyState === 'complete'")
        return page

    def call(self, method: str, parameters: dict[str, Any] | None = None, session: str | None = None) -> dict[str, Any]:
        """A command's result. RuntimeError if it fails."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters or {}}
        if session is not None:
            message["sessionId"] = session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") != self._number:
                self.events.append(answer)
            elif "error" in answer:
                raise RuntimeError(f"{method}: {answer['error']}")
            else:
                return answer["result"]

    def _receive(self) -> dict[str, Any]:
        end = time.monotonic() + self.timeout
        while b"\0" not in self._buffer:
            try:
                self._buffer += os.read(self._read, 1 << 20)
            except BlockingIOError:
                if time.monotonic() > end:
                    raise TimeoutError("the browser does not answer") from None
                time.sleep(0.01)
        message, self._buffer = self._buffer.split(b"\0", 1)
        return json.loads(message)


class Page:
    """A page of a browser."""

    def __init__(self, browser: Chromium, session: str) -> None:
        self._browser, self._session = browser, session

    def call(self, method: str, parameters: dict[str, Any] | None = None) -> dict[str, Any]:
        return self._browser.call(method, parameters, self._session)

    def value(self, expression: str) -> Any:
        """Value of a JavaScript expression. RuntimeError if it throws."""
        result = self.call("Runtime.evaluate", {"expression": expression, "returnByValue": True, "awaitPromise": True})
        if "exceptionDetails" in result:
            raise RuntimeError(f"{expression}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def wait_for(self, expression: str, seconds: float = 20.0) -> Any:
        """Its value, once it is true. TimeoutError."""
        end = time.monotonic() + seconds
        while not (value := self.value(expression)):
            if time.monotonic() > end:
                raise TimeoutError(f"{expression} stayed {value!r}")
            time.sleep(0.05)
        return value

    def complaints(self) -> list[str]:
        """Errors and warnings of scripts, styles and requests so far."""
        self.value("1")
        found = []
        for event in self._browser.events:
            method, parameters = event.get("method"), event.get("params", {})
            if event.get("sessionId") != self._session:
                continue
            if method == "Runtime.exceptionThrown" or (
                    method == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "warning")):
                found.append(json.dumps(parameters))
            elif method == "Log.entryAdded" and parameters["entry"]["level"] in ("error", "warning"):
                found.append(parameters["entry"]["text"] + " " + parameters["entry"].get("url", ""))
        return found

    def screenshot(self, path: Path) -> None:
        """The viewport, as PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", {"format": "png"})["data"]))


def main(url: str, picture: str, width: str = "1280", height: str = "900", *scheme: str) -> None:
    with Chromium() as browser:
        page = browser.open(url, width=int(width), height=int(height), dark="dark" in scheme)
        page.wait_for("Number(document.getElementById('clips').textContent.replaceAll(',', '')) >= 3", 600)
        page.wait_for("strip.image !== null")
        time.sleep(1)
        page.screenshot(Path(picture))


if __name__ == "__main__":
    main(*sys.argv[1:])
