"""One process at a time has the board."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from spikeloom.host.errors import DriverError
from spikeloom.host.lock import BoardLock


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spikeloom.host.lock.tempfile.gettempdir", lambda: str(tmp_path))


def test_other_process_is_named() -> None:
    lock = BoardLock("device")
    with pytest.raises(DriverError, match=r"device is used by process [0-9]+: close it there first"):
        BoardLock("device")
    BoardLock("other").release()
    lock.release()
    lock.release()
    BoardLock("device").release()


def test_dead_process_holds_nothing(tmp_path: Path) -> None:
    code = (
        "import fcntl, sys\n"
        "file = open(sys.argv[1], 'a+')\n"
        "fcntl.flock(file, fcntl.LOCK_EX)\n"
        "print('held', flush=True)\n"
        "input()")
    path = tmp_path / "spikeloom-device.lock"
    command = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(DriverError, match="device is used by process"):
            BoardLock("device")
        other.kill()
    BoardLock("device").release()
