"""The page of `spikeloom run --serve`: its server, and what headless Chromium makes of it."""

from __future__ import annotations

import json
import socket
import struct
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator
from http.client import HTTPConnection
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from spikeloom.config import preset
from spikeloom.host import serve
from spikeloom.host.pipeline import Result, Summary, Tasks
from spikeloom.host.pipeline_meter import RunRecord
from spikeloom.host.pipeline_source import Clip, ClipShape
from spikeloom.host.serve import Server, png

_spec = spec_from_file_location("chromium", Path(__file__).with_name("chromium.py"))
assert _spec is not None
assert _spec.loader is not None
chromium = module_from_spec(_spec)
_spec.loader.exec_module(chromium)

SHAPE = ClipShape(frames=4, height=6, width=8)
LAYERS = {f"block{i}.conv.spikes": 0.02 * i for i in range(9)}


class Rig:
    """What the server shows of a run: made-up results, no machine."""

    def __init__(self, *, kind: str = "sim", simulated: bool = True, power: Any = None, names: Any = None) -> None:
        self.tasks = Tasks(
            names=names or {"digit": list("0123456789"), "direction": ["right", "left", "down", "up"]}, scale=0.01)
        program = SimpleNamespace(network_hash="0123456789abcdef", config=preset("tiny"))
        self.build = SimpleNamespace(program=program, shape=SHAPE, tasks=self.tasks)
        self.device = SimpleNamespace(kind=kind, name=f"test {kind}", simulated_time=simulated, power=power)
        self.counter = SimpleNamespace(hidden=2)
        self.summary = Summary(frames=SHAPE.frames)

    def result(self, number: int, *, label: dict[str, str] | None = None, **record: Any) -> Result:
        pixels = np.full((SHAPE.frames, SHAPE.height, SHAPE.width, 3), 40 + number % 200, np.uint8)
        classes = sum(self.tasks.sizes.values())
        logits = np.roll(np.arange(classes, dtype=np.int32) * 30, number)
        result = Result(
            number=number, clip=Clip(pixels=pixels, first=4 * number, last=4 * number + 3, preview=pixels,
                                     label=label or {}),
            logits=logits, top=self.tasks.top(logits), latency=0.012,
            run=RunRecord(**{"seconds": 0.0008, "cycles": 242_366, "rates": LAYERS, "engines": {"load": 0.5}} | record))
        self.summary.add(result)
        self.summary.seconds += 0.1
        return result


@pytest.fixture
def rig() -> Rig:
    return Rig()


@pytest.fixture
def server(rig: Rig) -> Iterator[Server]:
    with Server(rig, "digits") as server:  # type: ignore[arg-type]
        yield server


def get(url: str, **headers: str) -> tuple[int, bytes, Any]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=120) as answer:
            return answer.status, answer.read(), answer.headers
    except urllib.error.HTTPError as error:
        return error.code, error.read(), error.headers


def event(server: Server) -> dict[str, Any]:
    """The first event that a page hears."""
    with urllib.request.urlopen(server.url + "events", timeout=120) as answer:
        line = answer.readline()
    assert line.startswith(b"data: ")
    return json.loads(line[len(b"data: "):])


def test_files(server: Server) -> None:
    status, body, headers = get(server.url)
    assert status == 200
    assert b"<title>Spikeloom</title>" in body
    assert "script-src 'self'" in headers["Content-Security-Policy"]
    for name in ("style.css", "page.js", "icon.svg"):
        status, body, _ = get(server.url + name)
        assert status == 200
        assert name.encode() in get(server.url)[1], "not used"
        assert b"://" not in body.replace(b"http://www.w3.org/2000/svg", b""), "nothing comes from elsewhere"
    for path in ("nothing", "../serve.py", "picture/7.png", "picture/x.png", "picture/-1.png", "page/index.html"):
        assert get(server.url + path)[0] == 404


def test_events_and_pictures(rig: Rig, server: Server) -> None:
    assert event(server)["state"] == "waiting"
    for number in range(serve.KEPT + 2):
        server.publish(rig.result(number, label={"digit": "3", "direction": "up"}))
    state = event(server)
    assert state["state"] == "running"
    assert state["number"] == serve.KEPT + 1
    assert [task["name"] for task in state["tasks"]] == ["digit", "direction"]
    assert len(state["tasks"][0]["top"]) == 5
    assert state["tasks"][0]["label"] == "3"
    assert state["stats"]["clips"] == serve.KEPT + 2
    assert state["activity"][3] == {"name": "block3.conv", "rate": 0.06}
    assert state["power"] is None
    assert state["about"]["source"] == "digits"
    status, picture, _ = get(server.url + state["picture"])
    assert status == 200
    assert struct.unpack(">II", picture[16:24]) == (SHAPE.width, SHAPE.frames * SHAPE.height)
    assert get(server.url + "picture/0.png")[0] == 404, "not kept any more"
    server.finish("camera /dev/video0: lost")
    assert (event(server)["state"], event(server)["message"]) == ("failed", "camera /dev/video0: lost")


def test_slow_pages_hold_nothing_up(rig: Rig, server: Server) -> None:
    """A page that reads nothing, and then one more than there may be."""
    held = []
    for _ in range(serve.MOST_LISTENERS):
        connection = HTTPConnection("127.0.0.1", int(server.url.rsplit(":", 1)[1].strip("/")), timeout=120)
        connection.request("GET", "/events")
        held.append(connection.getresponse())
        assert held[-1].status == 200
    for number in range(300):
        server.publish(rig.result(number))
    assert get(server.url + "events")[0] == 503
    assert get(server.url)[0] == 200
    for answer in held:
        answer.close()


def test_other_web_sites_get_nothing(server: Server) -> None:
    port = server.url.rsplit(":", 1)[1].strip("/")
    for path in ("", "events", "page.js"):
        assert get(server.url + path, Host=f"evil.example:{port}")[0] == 403
    assert get(server.url, Host=f"localhost:{port}")[0] == 200


def test_loopback_by_default(server: Server) -> None:
    assert server.url.startswith("http://127.0.0.1:")
    assert server._http.server_address[0] == "127.0.0.1"


def test_port_taken(rig: Rig) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(OSError, match=rf"cannot serve at 127\.0\.0\.1:{port}: .*in use; name another port"):
            Server(rig, "digits", port=port)  # type: ignore[arg-type]


def test_power() -> None:
    power = SimpleNamespace(start=lambda: None, latest={"INT": 3.0, "12V": 14.25}, main="12V")
    rig = Rig(kind="board", simulated=False, power=power)
    with Server(rig, "digits") as server:  # type: ignore[arg-type]
        server.publish(rig.result(0))
        assert event(server)["power"] == {"rail": "12V", "watts": 14.25}


def test_png() -> None:
    picture = np.random.default_rng(1).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    data = png(picture)
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    at, body = 8, b""
    while at < len(data):
        (size,) = struct.unpack(">I", data[at:at + 4])
        kind, content = data[at + 4:at + 8], data[at + 8:at + 8 + size]
        assert struct.unpack(">I", data[at + 8 + size:at + 12 + size])[0] == zlib.crc32(kind + content)
        body += content if kind == b"IDAT" else b""
        at += 12 + size
    rows = np.frombuffer(zlib.decompress(body), np.uint8).reshape(5, -1)
    assert not rows[:, 0].any()
    np.testing.assert_array_equal(rows[:, 1:].reshape(5, 7, 3), picture)


# In a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if not chromium.PROGRAM:
        pytest.skip("no Chromium here (Debian: apt-get install chromium)")
    with chromium.Chromium() as browser:
        yield browser


def text(page: Any, identifier: str) -> str:
    return page.value(f"document.getElementById('{identifier}').innerText")


@pytest.mark.parametrize(("width", "height", "dark"), [(1280, 900, False), (390, 844, True), (320, 600, False)])
def test_page(rig: Rig, server: Server, browser: Any, width: int, height: int, dark: bool) -> None:
    page = browser.open(server.url, width=width, height=height, dark=dark)
    for number in range(3):
        server.publish(rig.result(number, label={"digit": "1", "direction": "down"}))
    page.wait_for("document.getElementById('clips').innerText === '3'")
    page.wait_for("strip.image !== null && !strip.busy")
    assert text(page, "said") == "1 · up (is down)"
    assert page.value("document.querySelectorAll('#tasks .bars li').length") == 9
    assert page.value("document.querySelectorAll('#activity li').length") == len(LAYERS)
    assert text(page, "cycles") == "242,366"
    assert (text(page, "rate"), text(page, "latency")) == ("5,000", "800 µs")
    assert "counted by simulation" in text(page, "rate-note")
    assert (text(page, "power"), text(page, "power-note")) == ("not measured", "no board")
    assert "2 layers keep their spikes on the chip" in text(page, "activity-note")
    assert text(page, "accuracy-note") == "digit 1/3, direction 0/3"
    pixel = "Array.from(document.getElementById('screen').getContext('2d').getImageData(1, 1, 1, 1).data)"
    assert page.wait_for(pixel) == [42, 42, 42, 255]
    assert page.value("document.documentElement.scrollWidth") <= width, "scrolls sideways"
    light = page.value("getComputedStyle(document.body).backgroundColor") == "rgb(244, 245, 248)"
    assert light != dark
    assert page.complaints() == []


def test_page_without_scale_names_or_spikes(browser: Any) -> None:
    """A real board's network of which nothing is known; names are text, not markup."""
    rig = Rig(kind="board", simulated=False, names={"class": ["<b>cat</b>", *map(str, range(1, 400))]})
    rig.tasks = Tasks(names=rig.tasks.names)
    with Server(rig, "camera /dev/video0") as server:  # type: ignore[arg-type]
        page = browser.open(server.url, width=800, height=600)
        server.publish(rig.result(1, rates=None, engines=None))
        page.wait_for("document.getElementById('clips').innerText === '1'")
        assert text(page, "said") == "<b>cat</b>"
        assert text(page, "tasks").splitlines()[1] == "<b>cat</b>"
        assert page.value("document.querySelectorAll('b').length") == 0
        assert text(page, "activity-note") == "not measured: the spikes of this network stay on the chip"
        assert text(page, "latency") == "12 ms"
        assert "of it machine 800 µs" in text(page, "latency-note")
        assert text(page, "accuracy-note") == "no labels"
        assert page.value("document.getElementById('engines-card').hidden")


def test_page_shows_the_end(rig: Rig, browser: Any) -> None:
    with Server(rig, "digits") as server:  # type: ignore[arg-type]
        page = browser.open(server.url, width=800, height=600)
        server.publish(rig.result(0))
        server.finish("clip not finished after 10 s\nstate: busy")
        page.wait_for("document.getElementById('state').dataset.state === 'failed'")
        assert text(page, "message") == "clip not finished after 10 s\nstate: busy"
    with Server(rig, "digits") as server:  # type: ignore[arg-type]
        page = browser.open(server.url, width=800, height=600)
        page.wait_for("document.getElementById('state').dataset.state === 'waiting'")
    page.wait_for("document.getElementById('state').dataset.state === 'lost'")
