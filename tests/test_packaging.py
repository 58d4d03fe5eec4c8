"""What is installed is what is on the disk, and imports run one way."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

ROOT = Path(__file__).parents[1]
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
FOLDERS = ("spikeloom", "host", "hw", "quantize", "sim")
ALLOWED = {
    "spikeloom": set(), "quantize": {"spikeloom"}, "hw": {"spikeloom"}, "host": {"spikeloom", "hw"},
    "sim": {"spikeloom", "quantize", "hw", "host"}}
"""Folder -> folders that its modules may import when they are imported."""


def package_of(directory: Path) -> str:
    parts = directory.relative_to(ROOT).parts
    return ".".join(parts if parts[0] == "spikeloom" else ("spikeloom", *parts))


def sources() -> list[Path]:
    return sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))


def folder_of(module: str) -> str | None:
    """Folder of an absolute import, None for other distributions."""
    parts = module.split(".")
    if parts[0] != "spikeloom":
        return None
    return parts[1] if len(parts) > 1 and parts[1] in FOLDERS else "spikeloom"


def imports_at_load(path: Path) -> list[str]:
    """Absolute modules that a file imports when it is loaded: not in functions, not for type checkers."""
    found, pending = [], list(ast.parse(path.read_text()).body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package_of(path.parent).split(".")
            prefix = base[: len(base) - node.level + 1] if node.level else []
            module = ".".join([*prefix, *([node.module] if node.module else [])])
            found += [module, *(f"{module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            pending += node.orelse
        elif not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            pending += [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]
    return found


def test_packages_are_those_on_the_disk() -> None:
    on_disk = {package_of(path.parent) for path in sources() if path.name == "__init__.py"}
    assert set(SETUPTOOLS["packages"]) == on_disk
    for package, directory in SETUPTOOLS["package-dir"].items():
        assert package_of(ROOT / directory) == package
    assert set(SETUPTOOLS["package-dir"]) == on_disk


def test_every_module_is_in_a_package() -> None:
    assert [str(path) for path in sources() if not (path.parent / "__init__.py").exists()] == []


def test_type_checker_sees_every_module() -> None:
    links = ROOT / "typings" / "spikeloom"
    expected = {path.name for path in (ROOT / "spikeloom").glob("*.py")} | {"commands", "py.typed", *FOLDERS[1:]}
    assert {path.name for path in links.iterdir() if path.is_symlink()} == expected, "run `make typings`"
    names = [path for path in links.iterdir() if path.name != "__pycache__"]  # that of a session under PYNQ
    assert [link.name for link in names if not link.exists() or os.path.isabs(os.readlink(link))] == []


@pytest.mark.parametrize("folder", FOLDERS)
def test_imports_run_one_way(folder: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}: {module}" for path in sorted((ROOT / folder).rglob("*.py"))
        for module in imports_at_load(path) if folder_of(module) not in {None, folder} | ALLOWED[folder]]
    assert wrong == []


def test_folders_are_imported_under_spikeloom_only() -> None:
    """`import hw` works in the repository's root, and makes a second copy of every class."""
    wrong = []
    for path in [*sources(), *(ROOT / "tests").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            wrong += [f"{path.relative_to(ROOT)}: {name}" for name in names if name.split(".")[0] in FOLDERS[1:]]
    assert wrong == []


def test_facade_needs_neither_torch_nor_amaranth() -> None:
    code = (
        "import sys, spikeloom.api, spikeloom.cli, spikeloom.network, spikeloom.registers\n"
        "sys.exit(', '.join(sorted({'torch', 'amaranth', 'sklearn', 'av'} & set(sys.modules))))")
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd="/")
    assert result.stderr.strip() == ""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: setuptools would pack whatever an earlier build left in the repository."""
    out, tree = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("tree")
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, tree / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(tree)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return next(out.glob("*.whl"))


def test_wheel_holds_every_module_and_all_data(wheel: Path) -> None:
    wanted = {f"{package_of(path.parent).replace('.', '/')}/{path.name}" for path in sources()} | {"spikeloom/py.typed"}
    for folder in ("quantize/zoo", "quantize/training/configs", "sim/harness", "host/page", "host/notebooks"):
        wanted |= {f"spikeloom/{path.relative_to(ROOT)}" for path in (ROOT / folder).glob("*")
                   if path.is_file() and not path.name.startswith(".")}
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert held == wanted


def test_wheel_imports_without_the_repository(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    code = ("import spikeloom, spikeloom.cli, spikeloom.hw, spikeloom.quantize.models, spikeloom.sim\n"
            "print(spikeloom.__file__)")
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert Path(result.stdout.strip()) == tmp_path / "spikeloom" / "__init__.py"


def test_driver_needs_numpy_only(wheel: Path, tmp_path: Path) -> None:
    """No other distribution is loaded on a board; PYNQ by `spikeloom.host.driver` alone."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    code = ("import sys, spikeloom.host.accelerator\n"
            "print({'torch', 'amaranth', 'safetensors', 'tqdm', 'pynq'} & set(sys.modules))")
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert result.stdout.strip() == "set()"


def test_entry_points_name_modules() -> None:
    """PYNQ imports them with every overlay, so a wrong one breaks every overlay."""
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    modules = [module for group in groups.values() for module in group.values()]
    paths = {module: ROOT / Path(*module.split(".")[1:]) for module in modules}
    assert [name for name, path in paths.items()
            if not path.with_suffix(".py").exists() and not (path / "__init__.py").exists()] == []
