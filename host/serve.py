"""A local web page that shows a run: live picture, classes, spikes per layer, speed, power.

    Server.publish --- newest state ---> /events (server-sent events, at most `RATE` a second) ---> page.js
                   '-- newest clips ---> /picture/<n>.png (the clip's frames one below the other)

Everything comes from here: no CDN, no build step, nothing but the standard library and NumPy. A browser that is slow
sees fewer clips and holds nothing up. On the loopback interface only requests that name it are answered, so that no
other web site can read along (DNS rebinding).
"""

from __future__ import annotations

import json
import re
import struct
import threading
import time
import zlib
from collections import OrderedDict, deque
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .pipeline import Result, Run

__all__ = ["Server", "png"]

RATE = 10
"""Events per second at most."""

KEPT = 8
"""Clips whose pictures can be asked for."""

MOST_LISTENERS = 16
"""Pages open at a time."""

WINDOW = 3.0
"""Seconds that frames per second are taken over."""

_PAGE = Path(__file__).parent / "page"
_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"), "/style.css": ("style.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"), "/icon.svg": ("icon.svg", "image/svg+xml")}
_LOOPBACK = ("127.0.0.1", "localhost", "[::1]", "::1")
_POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'"


class Server:
    """Serves the page; a context manager.

    Args:
        run: What is shown.
        source: Its name.
        port: TCP port; 0 takes a free one.
        bind: Address to listen at. Anything but loopback shows the picture to everybody who can reach it.

    Attributes:
        url: Of the page.

    Raises:
        OSError: The port is taken; the message names it.
    """

    def __init__(self, run: Run, source: str, *, port: int = 0, bind: str = "127.0.0.1") -> None:
        self._run, self._about = run, _about(run, source)
        self._changed = threading.Condition()
        self._state: dict[str, Any] = {"state": "waiting", "message": None, "about": self._about}
        self._version, self.closing = 1, False
        self._clips: OrderedDict[int, NDArray[np.uint8]] = OrderedDict()
        self._times: deque[float] = deque()
        self._rates: Mapping[str, float] | None = None
        self._engines: Mapping[str, float] | None = None
        self.listeners = threading.Semaphore(MOST_LISTENERS)
        try:
            self._http = _HttpServer((bind, port), _Handler)
        except OSError as error:
            raise OSError(f"cannot serve at {bind}:{port}: {error.strerror or error}; name another port") from error
        self._http.page = self
        self._http.hosts = _LOOPBACK if bind in _LOOPBACK else None
        self.url = f"http://{bind}:{self._http.server_address[1]}/"
        threading.Thread(target=self._http.serve_forever, args=(0.1,), name="page", daemon=True).start()
        if run.device.power is not None:
            run.device.power.start()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Send what is left and stop."""
        with self._changed:
            self.closing = True
            self._changed.notify_all()
        self._http.shutdown()
        self._http.server_close()

    def publish(self, result: Result) -> None:
        """Show a result."""
        self._times.append(time.perf_counter())
        while self._times[-1] - self._times[0] > WINDOW and len(self._times) > 2:
            self._times.popleft()
        self._rates, self._engines = result.run.rates or self._rates, result.run.engines or self._engines
        with self._changed:
            self._clips[result.number] = result.clip.preview
            while len(self._clips) > KEPT:
                self._clips.popitem(last=False)
            self._set(state="running", **self._describe(result))

    def finish(self, message: str | None = None) -> None:
        """Say that there is no more, and why if it was an error."""
        with self._changed:
            self._set(state="finished" if message is None else "failed", message=message)

    def wait(self) -> None:
        """Until Ctrl-C."""
        while not self.closing:
            time.sleep(0.2)

    def state(self, after: int, seconds: float) -> tuple[int, dict[str, Any]] | None:
        """The newest state once its version is above `after`; None if it is not in so many seconds."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._version > after or self.closing, seconds):
                return None
            return (self._version, self._state) if self._version > after else None

    def picture(self, number: int) -> bytes | None:
        """PNG of a clip's frames, one below the other; None if it is not kept (any more)."""
        with self._changed:
            frames = self._clips.get(number)
        return None if frames is None else png(frames.reshape(-1, *frames.shape[2:]))

    def _set(self, **parts: Any) -> None:
        self._state = {**self._state, **parts}
        self._version += 1
        self._changed.notify_all()

    def _describe(self, result: Result) -> dict[str, Any]:
        summary, right = self._run.summary, result.correct
        return {
            "number": result.number, "first": result.clip.first, "last": result.clip.last,
            "picture": f"picture/{result.number}.png",
            "tasks": [{"name": task, "label": result.clip.label.get(task), "correct": right.get(task),
                       "top": [vars(guess) for guess in guesses]} for task, guesses in result.top.items()],
            "stats": {
                "frames_per_second": self._frames_per_second(), "latency_seconds": result.latency,
                "machine_seconds": result.run.seconds, "cycles": result.run.cycles, "clips": summary.clips,
                "dropped": summary.dropped, "accuracy": summary.to_dict()["accuracy"]},
            "activity": None if self._rates is None else [
                {"name": name.removesuffix(".spikes"), "rate": rate} for name, rate in self._rates.items()],
            "hidden": self._run.counter.hidden, "engines": self._engines, "power": self._power()}

    def _frames_per_second(self) -> float:
        span = self._times[-1] - self._times[0]
        clips = (len(self._times) - 1) / span if span else self._run.summary.clips / self._run.summary.seconds
        return clips * self._run.build.shape.frames

    def _power(self) -> dict[str, Any] | None:
        power = self._run.device.power
        if power is None or power.latest is None:
            return None
        rail = power.main
        return {"rail": rail, "watts": power.latest[rail]}


def _about(run: Run, source: str) -> dict[str, Any]:
    from importlib.metadata import version

    device, program = run.device, run.build.program
    return {
        "device": device.name, "simulated_time": device.simulated_time, "source": source, **vars(run.build.shape),
        "network": program.network_hash[:12], "config": f"{program.config.hash:08x}",
        "clock_mhz": program.config.clock_mhz, "version": version("spikeloom"),
        "activity": "computed by the integer reference" if device.kind == "reference"
                    else "counted in the memory that the machine wrote",
        "no_power": "the board has no power rails" if device.kind == "board" else "no board"}


class _HttpServer(ThreadingHTTPServer):
    daemon_threads = True
    page: Server
    hosts: tuple[str, ...] | None

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: browsers go away at any moment."""


class _Handler(BaseHTTPRequestHandler):
    server: _HttpServer  # pyright: ignore[reportIncompatibleVariableOverride]
    protocol_version = "HTTP/1.1"
    timeout = 30

    def do_GET(self) -> None:
        page, path = self.server.page, self.path.split("?")[0]
        if not self._is_for_us():
            self._send(HTTPStatus.FORBIDDEN, b"this address is served to localhost only\n", "text/plain")
        elif path in _FILES:
            name, kind = _FILES[path]
            self._send(HTTPStatus.OK, (_PAGE / name).read_bytes(), kind)
        elif path == "/events":
            self._events(page)
        elif path.startswith("/picture/") and path.endswith(".png"):
            self._picture(page, path[len("/picture/"):-len(".png")])
        else:
            self._send(HTTPStatus.NOT_FOUND, b"no such page\n", "text/plain")

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""

    def _is_for_us(self) -> bool:
        host = re.sub(r":\d+$", "", self.headers.get("Host", ""))
        return self.server.hosts is None or host in self.server.hosts

    def _send(self, status: HTTPStatus, body: bytes, kind: str, cache: str = "no-cache") -> None:
        self.send_response(status)
        self._headers({"Content-Type": kind, "Content-Length": str(len(body)), "Cache-Control": cache})
        self.wfile.write(body)

    def _headers(self, headers: Mapping[str, str]) -> None:
        for name, value in {**headers, "Content-Security-Policy": _POLICY, "X-Content-Type-Options": "nosniff",
                            "Referrer-Policy": "no-referrer"}.items():
            self.send_header(name, value)
        self.end_headers()

    def _picture(self, page: Server, number: str) -> None:
        picture = page.picture(int(number)) if number.isdecimal() else None
        if picture is None:
            self._send(HTTPStatus.NOT_FOUND, b"no such clip (any more)\n", "text/plain")
        else:
            self._send(HTTPStatus.OK, picture, "image/png", "no-store")

    def _events(self, page: Server) -> None:
        if not page.listeners.acquire(blocking=False):
            self._send(HTTPStatus.SERVICE_UNAVAILABLE, b"too many pages are open\n", "text/plain")
            return
        try:
            self.close_connection = True
            self.send_response(HTTPStatus.OK)
            self._headers({"Content-Type": "text/event-stream", "Cache-Control": "no-store", "Connection": "close"})
            self._stream(page)
        finally:
            page.listeners.release()

    def _stream(self, page: Server) -> None:
        version = 0
        while True:
            found = page.state(version, 2.0)
            if found is not None:
                version, state = found
                self.wfile.write(f"data: {json.dumps(state)}\n\n".encode())
            elif page.closing:
                return
            else:
                self.wfile.write(b": still here\n\n")
            self.wfile.flush()
            if not page.closing:
                time.sleep(1 / RATE)


def png(picture: NDArray[np.uint8]) -> bytes:
    """A picture uint8[H, W, 3] as PNG."""
    height, width, _ = picture.shape
    rows = np.zeros((height, 1 + 3 * width), np.uint8)
    rows[:, 1:] = picture.reshape(height, -1)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 1)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, data) for kind, data in parts)
