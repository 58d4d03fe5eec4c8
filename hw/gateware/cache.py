"""The build cache: one folder, content-addressed, safe to share between processes and safe to delete.

Everything in it is named by a hash of what it was made from, so an entry never goes stale. Files and folders appear
under their final name by one atomic rename: a reader sees a whole entry or none.
"""

import contextlib
import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

__all__ = ["cache_directory", "content_hash", "exclusive", "write_atomically"]


def cache_directory(kind: str) -> Path:
    """Folder for entries of one ``kind``: ``$SPIKELOOM_CACHE/<kind>``, else ``~/.cache/spikeloom/<kind>`` (created)."""
    root = os.environ.get("SPIKELOOM_CACHE")
    path = (Path(root) if root else Path.home() / ".cache" / "spikeloom") / kind
    path.mkdir(parents=True, exist_ok=True)
    return path.resolve()


def content_hash(parts: Iterable[str | bytes]) -> str:
    """24 hex digits over ``parts``; where one part ends and the next begins counts as content."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()[:24]


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write ``content`` so that ``path`` either does not exist or is complete, whoever else writes it meanwhile."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


@contextlib.contextmanager
def exclusive(lock: Path) -> Iterator[None]:
    """Hold the file ``lock`` alone among all processes; waits. The kernel frees it should the process die."""
    with open(lock, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
