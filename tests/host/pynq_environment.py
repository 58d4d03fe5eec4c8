"""Makes the environment with PYNQ for the tests of the board: `python tests/host/pynq_environment.py [.venv/pynq]`.

PYNQ wants NumPy < 2, so it has an environment of its own. What is in the environment that makes it (Amaranth, the
simulator, matplotlib) is seen from it, behind its own packages. It is made once; a changed list of packages makes it
again. `--where` prints its Python, nothing if there is none. Always exits with 0: where the package index cannot be
reached, the tests are skipped and give the reason.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

REQUIREMENTS = (
    "pynq==4.0.0",
    "setuptools<81",   # PYNQ finds overlays and notebooks with pkg_resources, which newer ones lack
    "pycparser<3",
    "nbclient==0.11.0",
    "ipykernel==7.4.0",
)
DEFAULT = Path(__file__).parents[2] / ".venv" / "pynq"
LIMIT = 900
"""Seconds that pip may take."""


def key() -> str:
    """Hash of what goes into an environment."""
    return hashlib.sha256(repr((REQUIREMENTS, sys.version, sysconfig.get_path("purelib"))).encode()).hexdigest()


def python_with_pynq() -> tuple[str | None, str]:
    """(Python with pynq, "") or (None, why there is none). SPIKELOOM_PYNQ_PYTHON names another one."""
    if chosen := os.environ.get("SPIKELOOM_PYNQ_PYTHON"):
        return chosen, ""
    state = DEFAULT / "state.txt"
    if not state.is_file():
        return None, "no environment with PYNQ: `make pynq-env` makes it"
    text = state.read_text().strip()
    return (str(DEFAULT / "bin" / "python"), "") if text == key() else (None, f"no environment with PYNQ: {text}")


def make(folder: Path) -> str:
    """Make the environment unless it is there. Why it could not be made, empty if it is ready."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    state = folder / "state.txt"
    with open(folder.with_name(f"{folder.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if state.is_file() and state.read_text().strip() == key():
            return ""
        print(f"installing {REQUIREMENTS[0]} into {folder}: a minute or two", flush=True)
        begun = time.monotonic()
        shutil.rmtree(folder, ignore_errors=True)
        reason = _install(folder)
        folder.mkdir(exist_ok=True)
        state.write_text(f"{reason or key()}\n")
        print(reason or f"ready after {time.monotonic() - begun:.0f} s")
        return reason


def _install(folder: Path) -> str:
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "-q", "--no-compile", "--disable-pip-version-check",
           "--retries", "1", *REQUIREMENTS]
    try:
        for command in ([sys.executable, "-m", "venv", str(folder)], pip):
            result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIMIT)
            if result.returncode:
                lines = [line for line in (result.stdout + result.stderr).splitlines() if "ERROR" in line]
                return f"{command[2]} failed: {(lines or ['no reason given'])[-1]}"
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"cannot be made: {error}"
    paths = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    site = next(folder.glob("lib/python3*/site-packages"))
    (site / "zz_tools.pth").write_text("".join(f"{path}\n" for path in sorted(paths)))
    return ""


if __name__ == "__main__":
    if sys.argv[1:] == ["--where"]:
        print(python_with_pynq()[0] or "")
        sys.exit()
    make(Path(sys.argv[1]).absolute() if len(sys.argv) > 1 else DEFAULT)
