"""One process at a time: a second one would load its bitstream under a running machine."""

from __future__ import annotations

import fcntl
import os
import tempfile
from pathlib import Path

from .errors import DriverError

__all__ = ["BoardLock"]


class BoardLock:
    """Hold a device; the kernel lets go of it when the process dies.

    Args:
        device: Name of the device.

    Raises:
        DriverError: It is held already; the message names the process.
    """

    def __init__(self, device: str) -> None:
        self.path = Path(tempfile.gettempdir()) / f"spikeloom-{device}.lock"
        self._file = self.path.open("a+")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.seek(0)
            holder = self._file.read().strip() or "unknown"
            self._file.close()
            raise DriverError(f"{device} is used by process {holder}: close it there first") from error
        self._file.truncate(0)
        self._file.write(str(os.getpid()))
        self._file.flush()

    def release(self) -> None:
        """Let go. Harmless when released already."""
        self._file.close()
