"""Builds and their cache, lint and its waivers."""

import ctypes
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from spikeloom.sim import verilator
from spikeloom.sim.verilator import LINT_WAIVERS, BuildError, LintError, build_library, lint

ADDER = "module adder (clk, a, q);\n  input clk;\n  input [7:0] a;\n  output reg [7:0] q;\n" \
    "  always @(posedge clk) q <= q + a;\nendmodule\n"  # fmt: skip

SHIM = """
#include "Vtop.h"
#ifndef STEP
#define STEP 1
#endif
extern "C" int total(int a, int cycles) {
  VerilatedContext context;
  Vtop top{&context};
  top.a = a;
  for (int i = 0; i < cycles; ++i) top.clk = 0, top.eval(), top.clk = 1, top.eval();
  return top.q * STEP;
}
extern "C" int traced() { return VM_TRACE; }
"""


def test_small_modules_of_which_there_are_many_are_inlined():
    many = "".join(f"  leaf leaf{i} (\n    .clk(clk)\n  );\n" for i in range(8))
    pairs = "".join(f"  pair \\pair${i}  (\n    .clk(clk)\n  );\n" for i in range(8))
    text = "module leaf (clk);\n  input clk;\nendmodule\n" \
        f"module pair (clk);\n  input clk;\n{many}endmodule\n" \
        f"module rest (clk);\n  input clk;\nendmodule\n" \
        f"module top (clk);\n  input clk;\n{pairs}  rest rest (\n    .clk(clk)\n  );\nendmodule\n"  # fmt: skip
    assert verilator._inlining(text, "top").splitlines() == [
        'inline -module "leaf"', 'no_inline -module "pair"', 'no_inline -module "rest"', 'no_inline -module "top"']
    assert "\ninline" not in "\n" + verilator._inlining(text, "pair")  # 8 of them


@pytest.fixture
def shim(tmp_path):
    path = tmp_path / "shim.cpp"
    path.write_text(SHIM)
    return path


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    """A cache of its own, but for the compiled runtime, which takes most of the time of a build."""
    shared = verilator.cache_directory("runtime")
    monkeypatch.setenv("SPIKELOOM_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "runtime").symlink_to(shared)
    return tmp_path / "cache"


def build(shim, verilog=ADDER, **options):
    said = []
    library = build_library(verilog, top="adder", sources=[shim], progress=said.append, **options)
    return library, said


def test_a_build_is_made_once_and_then_found(shim, empty_cache):
    library, said = build(shim)
    assert said[0] == "verilate adder"
    assert said[-1] == "link adder"
    assert ctypes.CDLL(str(library)).total(3, 7) == 21
    assert build(shim) == (library, ["cached"])
    assert library.is_relative_to(empty_cache)
    assert [path.name for path in library.parent.iterdir() if path.name != "build.log"] == ["model.so"]
    assert not list(library.parent.parent.glob("building-*"))


def test_everything_that_goes_in_counts(shim, empty_cache):
    library, _ = build(shim)
    doubled, said = build(shim, defines={"STEP": 2})
    assert doubled != library
    assert "cached" not in said
    assert ctypes.CDLL(str(doubled)).total(3, 7) == 42
    assert build(shim, verilog=ADDER.replace("q + a", "q - a"))[0] not in (library, doubled)
    shim.write_text(SHIM.replace("top.q", "1 + top.q"))
    assert ctypes.CDLL(str(build(shim)[0])).total(3, 7) == 22


def test_tracing_is_a_build_of_its_own(shim):
    plain, traced = build(shim)[0], build(shim, trace=True)[0]
    assert ctypes.CDLL(str(plain)).traced() == 0
    assert ctypes.CDLL(str(traced)).traced() == 1


def test_concurrent_builders_share_one_build(shim, empty_cache):
    results = []
    threads = [threading.Thread(target=lambda: results.append(build(shim))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({library for library, _ in results}) == 1
    assert sum(said != ["cached"] for _, said in results) == 1


def test_a_compiler_error_is_quoted_and_leaves_nothing_behind(shim, empty_cache):
    shim.write_text(SHIM + "int broken( {")
    with pytest.raises(BuildError, match=r"(?s)g\+\+ failed with status 1 \(whole log: .*\):.*shim.cpp") as failure:
        build(shim)
    log = str(failure.value).split("whole log: ")[1].split(")")[0]
    assert "$ " in Path(log).read_text()
    assert not list((empty_cache / "verilator").glob("adder-*/"))
    assert not list((empty_cache / "verilator").glob("building-*"))


def test_bad_verilog_is_a_build_error(shim, empty_cache):
    with pytest.raises(BuildError, match=r"(?s)verilator_bin failed.*syntax error"):
        build(shim, verilog=ADDER.replace("always", "alwaise"))


def test_a_missing_compiler_says_what_to_install(shim, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(BuildError, match=r"'no-such-compiler' is not on PATH. Install one .*apt-get install"):
        build(shim)


def test_a_missing_verilator_says_what_to_install():
    script = (
        "import sys; sys.modules['verilator'] = None\n"
        "from spikeloom.sim.verilator import BuildError, lint\n"
        "try: lint('', top='a')\n"
        "except BuildError as error: print(error)\n"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "pip install 'spikeloom[sim]'" in run.stdout


def test_big_designs_are_compiled_in_bundles_of_equal_size(tmp_path, monkeypatch):
    monkeypatch.setattr(verilator, "_UNIT_BYTES", 1000)
    files = []
    for index in range(20):
        files.append(tmp_path / f"{index}.cpp")
        files[-1].write_text(" " * 300)
    bundles = verilator._bundles(files, jobs=2)
    assert len(bundles) == 6
    assert sorted(path for bundle in bundles for path in bundle) == sorted(files)
    assert max(map(len, bundles)) - min(map(len, bundles)) <= 1


def test_lint_accepts_what_the_waivers_explain():
    lint(ADDER.replace("output reg [7:0] q;", "output reg [7:0] q = 0;\n  wire unused = a[0];"), top="adder")
    assert all(len(reason) > 20 for reason in LINT_WAIVERS.values())


@pytest.mark.parametrize(
    ("old", "new", "warning"),
    [
        ("q <= q + a;", "begin end", "UNDRIVEN"),
        ("q <= q + a;", "q = q + a;", "BLKSEQ"),
        ("endmodule", "reg x; always @* if (a[0]) x = a[1];\nendmodule", "LATCH"),
    ],
)
def test_lint_raises_for_the_rest(old, new, warning):
    with pytest.raises(LintError, match=rf"(?s)Verilator objects to module adder:.*{warning}"):
        lint(ADDER.replace(old, new), top="adder")
