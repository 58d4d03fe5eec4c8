"""Wheels for a board: the driver alone, and an overlay (bitstream, program) as a package that PYNQ finds by itself.

    driver    distribution `spikeloom`, version <version>+driver: spikeloom.host and what it imports. No torch, no
              Amaranth, no compiler, no simulator. Entry points `pynq.lib` (the driver binds to every overlay with the
              machine) and `pynq.notebooks`.
    overlay   distribution and package `spikeloom_overlay`: data. Entry point `pynq.overlays`: with it
              `Overlay("spikeloom.bit")` finds the bitstream.

Both are built by setuptools in a temporary folder, without a network. The same files give the same bytes.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

__all__ = ["OVERLAY_PACKAGE", "WheelError", "driver_modules", "driver_wheel", "overlay_wheel"]

OVERLAY_PACKAGE = "spikeloom_overlay"

ROOTS = ("spikeloom.host", "spikeloom.cli", "spikeloom.api")
"""What the driver's wheel is for; whatever these import when they are loaded comes along."""

_EPOCH = "315532800"
"""1980: the oldest date that a zip file can hold, for every file."""

_BUILD = "import sys\nfrom setuptools import build_meta\nprint(build_meta.build_wheel(sys.argv[1]))\n"

_DRIVER = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "spikeloom"
version = "{version}"
description = "Driver of Spikeloom's accelerator for PYNQ: the part that runs on a board"
license = {{text = "Apache-2.0"}}
requires-python = ">=3.10"
dependencies = ["numpy"]

[project.optional-dependencies]
board = ["pynq"]
run = ["tqdm", "av"]  # for the command `spikeloom run`

[project.scripts]
spikeloom = "spikeloom.cli:main"

[project.entry-points."pynq.lib"]
spikeloom = "spikeloom.host.driver"

[project.entry-points."pynq.notebooks"]
spikeloom = "spikeloom.host.notebooks"

[tool.setuptools]
packages = {packages}
include-package-data = false

[tool.setuptools.package-data]
"*" = ["*"]
"""

_OVERLAY = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "{package}"
version = "{version}"
description = "Bitstream and program of a Spikeloom accelerator: {what}"
requires-python = ">=3.10"
dependencies = ["spikeloom"]

[project.entry-points."pynq.overlays"]
spikeloom = "{package}.bitfile"

[tool.setuptools]
packages = ["{package}", "{package}.bitfile"]
include-package-data = false

[tool.setuptools.package-data]
"{package}" = ["**/*"]
"""


class WheelError(RuntimeError):
    """A wheel cannot be built; the message says what to do."""


def driver_modules() -> dict[str, Path]:
    """Module -> file, of everything in the driver's wheel."""
    found: dict[str, Path] = {}
    pending = [name for root in ROOTS for name in _below(root)]
    while pending:
        name = pending.pop()
        path = None if not name or name in found else _source(name)
        if path is not None:
            found[name] = path
            pending += [name.rpartition(".")[0], *_imports(name, path)]
    return dict(sorted(found.items()))


def driver_wheel(out: Path) -> Path:
    """Build the driver's wheel into `out`.

    Raises:
        WheelError: There is no setuptools, or it fails.
    """
    modules = driver_modules()
    packages = [name for name, path in modules.items() if path.name == "__init__.py"]
    with tempfile.TemporaryDirectory() as name:
        tree = Path(name)
        for module, path in modules.items():
            package = module if module in packages else module.rpartition(".")[0]
            _copy(path, tree.joinpath(*package.split("."), path.name))
        for package in packages:
            folder = modules[package].parent
            for data in _data(folder):
                _copy(data, tree.joinpath(*package.split("."), data.relative_to(folder)))
        text = _DRIVER.format(version=f"{version('spikeloom')}+driver", packages=packages)
        return _build(tree, text, out)


def overlay_wheel(out: Path, files: Mapping[str, bytes], *, number: str, what: str) -> Path:
    """Build the wheel of an overlay into `out`.

    Args:
        files: Content by path below the package.
        number: Its version.
        what: One line for people.

    Raises:
        WheelError: As `driver_wheel`.
    """
    with tempfile.TemporaryDirectory() as name:
        package = Path(name) / OVERLAY_PACKAGE
        text = f'"""{what}."""\n'.encode()
        for path, content in {"__init__.py": text, "bitfile/__init__.py": text, **files}.items():
            (package / path).parent.mkdir(parents=True, exist_ok=True)
            (package / path).write_bytes(content)
        return _build(Path(name), _OVERLAY.format(package=OVERLAY_PACKAGE, version=number, what=what), out)


def _build(tree: Path, project: str, out: Path) -> Path:
    (tree / "pyproject.toml").write_text(project)
    environment = {**os.environ, "SOURCE_DATE_EPOCH": _EPOCH}
    result = subprocess.run(
        [sys.executable, "-c", _BUILD, str(out.resolve())], cwd=tree, env=environment, capture_output=True, text=True,
        check=False)
    if "No module named 'setuptools'" in result.stderr:
        raise WheelError("setuptools is not installed: pip install 'setuptools>=77'")
    if result.returncode:
        raise WheelError(f"setuptools failed:\n{(result.stdout + result.stderr)[-2000:]}")
    return out / result.stdout.splitlines()[-1]


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _below(name: str) -> Iterator[str]:
    """A module and every module below it on the disk."""
    yield name
    path = _source(name)
    if path is not None and path.name == "__init__.py":
        for child in sorted(path.parent.iterdir()):
            if child.suffix == ".py" and child.stem != "__init__":
                yield f"{name}.{child.stem}"
            elif (child / "__init__.py").is_file():
                yield from _below(f"{name}.{child.name}")


def _data(folder: Path) -> Iterator[Path]:
    """Files of a package that are no modules; `py.typed` is one."""
    for path in sorted(folder.iterdir()):
        inside = [path] if path.is_file() else []
        if path.is_dir() and path.name != "__pycache__" and not list(path.rglob("*.py")):
            inside = sorted(file for file in path.rglob("*") if file.is_file())
        yield from (file for file in inside if file.suffix not in (".py", ".pyc") and not file.name.startswith("."))


def _source(name: str) -> Path | None:
    """File of a module of ours, None if there is no such module."""
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError:
        return None
    return Path(spec.origin) if spec is not None and spec.origin is not None else None


def _imports(module: str, path: Path) -> Iterator[str]:
    """Modules of ours that a file imports when it is loaded; names that are no modules are among them."""
    package = (module if path.name == "__init__.py" else module.rpartition(".")[0]).split(".")
    for node in _loaded(ast.parse(path.read_text()).body):
        names = [alias.name for alias in node.names]
        if isinstance(node, ast.ImportFrom):
            base = package[:len(package) - node.level + 1] if node.level else []
            whole = ".".join([*base, *([node.module] if node.module else [])])
            names = [whole, *(f"{whole}.{name}" for name in names)]
        yield from (name for name in names if name.split(".")[0] == "spikeloom")


def _loaded(statements: Sequence[ast.AST]) -> Iterator[ast.Import | ast.ImportFrom]:
    """Import statements that run when a module is loaded: not in functions, not for type checkers."""
    for node in statements:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            yield from _loaded(node.orelse)
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _loaded([child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)])
