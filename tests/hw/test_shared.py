"""Shared components: one module per kind, the same behaviour, reset from outside, errors."""

import gc
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from amaranth.back import rtlil, verilog
from amaranth.hdl import ClockDomain, Module, Signal, UnusedElaboratable
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator

from spikeloom.config import preset
from spikeloom.hw.gateware import shared as shared_module
from spikeloom.hw.gateware.emit import emit_verilog, multiplier_cells
from spikeloom.hw.gateware.fast_rtlil import convert
from spikeloom.hw.gateware.hamming import HammingUnit
from spikeloom.hw.gateware.shared import EnableInserter, ResetInserter, shared, to_rtlil
from spikeloom.sim.verilator import build_program

CYCLES = 20_000


@shared
class Adder(wiring.Component):
    """`o = a + step`, without a clock."""

    def __init__(self, *, step):
        self.step = step
        super().__init__({"a": In(8), "o": Out(8)})

    def elaborate(self, platform):
        m = Module()
        m.d.comb += self.o.eq(self.a + self.step)
        return m


@shared
class Stage(wiring.Component):
    """Registers that reset to something, one that does not reset, a memory; a shared part of its own."""

    def __init__(self, step, scale=1):
        self.step, self.scale = step, scale
        self._adder = Adder(step=step)
        super().__init__({"a": In(8), "o": Out(8), "count": Out(8, init=7)})  # type: ignore[call-arg]

    def elaborate(self, platform):
        m = Module()
        m.submodules.adder = self._adder
        m.submodules.rows = rows = memory.Memory(shape=8, depth=16, init=[3, 1, 4])
        write, read = rows.write_port(), rows.read_port()
        kept = Signal(8, reset_less=True)
        m.d.comb += [
            self._adder.a.eq(self.a), write.addr.eq(self.count), write.en.eq(1), write.data.eq(self._adder.o),
            read.addr.eq(self.a)]
        m.d.sync += [
            self.count.eq(self.count + self.scale), kept.eq(kept + self._adder.o),
            self.o.eq(read.data ^ kept ^ self.count)]
        return m


class Group(wiring.Component):
    """Two equal stages and two others."""

    def __init__(self):
        super().__init__({"a": In(8), "o": Out(8)})

    def elaborate(self, platform):
        m = Module()
        value = self.a
        for index, stage in enumerate([Stage(1), Stage(1), Stage(2), Stage(1, scale=3)]):
            m.submodules[f"stage{index}"] = stage
            m.d.comb += stage.a.eq(value)
            value = stage.o ^ stage.count
        m.d.comb += self.o.eq(value)
        return m


class Machine(wiring.Component):
    """A group that `inner` and `outer` reset, one inside the other, and one that only `rst` resets."""

    def __init__(self):
        super().__init__({"a": In(8), "inner": In(1), "outer": In(1), "o": Out(8), "p": Out(8)})

    def elaborate(self, platform):
        m = Module()
        group, other = Group(), Group()
        m.submodules.group = ResetInserter(self.outer)(ResetInserter({"sync": self.inner})(group))
        m.submodules.other = other
        m.d.comb += [group.a.eq(self.a), other.a.eq(self.a), self.o.eq(group.o), self.p.eq(other.o)]
        return m


def module_names(text):
    return [line.split()[1] for line in text.splitlines() if line.startswith("module ")]


def test_a_kind_is_a_module_children_first():
    names = module_names(emit_verilog(Machine(), name="machine"))
    assert names == [
        "machine_adder", "machine_stage", "machine_adder_2", "machine_stage_2", "machine_stage_3", "machine_group",
        "machine_other", "machine"]


COMPARE = """
module compare(input clk, input rst, input inner, input outer, input [7:0] a, output differ, output [7:0] o);
  wire [7:0] p, q, r;
  machine one(.clk(clk), .rst(rst), .inner(inner), .outer(outer), .a(a), .o(o), .p(p));
  plain two(.clk(clk), .rst(rst), .inner(inner), .outer(outer), .a(a), .o(q), .p(r));
  assign differ = o != q || p != r;
endmodule
"""

HARNESS = """
#include <cstdio>
#include <random>
#include <set>
#include "Vtop.h"
#include "verilated.h"
int main() {
    Vtop top;
    std::mt19937 random(5);
    std::set<int> values;
    for (int cycle = 0; cycle < %d; ++cycle) {
        top.a = random();
        top.rst = cycle < 2 || random() %% 50 == 0;
        top.inner = random() %% 20 == 0;
        top.outer = random() %% 20 == 0;
        top.clk = 0; top.eval();
        if (top.differ) return std::printf("cycle %%d\\n", cycle), 1;
        values.insert(top.o);
        top.clk = 1; top.eval();
    }
    std::printf("%%zu values\\n", values.size());
    return values.size() < 200;
}
double sc_time_stamp() { return 0; }
"""


def simulate(text, folder):
    source = folder / "main.cpp"
    source.write_text(HARNESS % CYCLES)
    program = build_program(text + COMPARE, top="compare", sources=[source])
    return subprocess.run([str(program)], capture_output=True, text=True, check=False)


def test_behaviour_is_that_of_the_unshared_component(tmp_path):
    """Cycle by cycle on random stimulus; Amaranth's own converter does not share."""
    plain = verilog.convert(Machine(), name="plain", emit_src=False)
    assert module_names(plain).count("machine_stage") == 0
    result = simulate(emit_verilog(Machine(), name="machine") + plain, tmp_path)
    assert result.returncode == 0, result.stdout


def test_the_comparison_notices_a_missing_reset(tmp_path):
    """Amaranth's `ResetInserter` does not reach into instances: with it the comparison above must fail."""
    plain = verilog.convert(Machine(), name="plain", emit_src=False)
    text = emit_verilog(Machine(), name="machine")
    broken = re.sub(r"\.rst\((?!rst\)).*?\)\n", ".rst(rst)\n", text)
    assert broken != text
    assert simulate(broken + plain, tmp_path).returncode == 1


def test_an_enable_that_would_not_reach_a_shared_component_is_refused():
    class Held(wiring.Component):
        def __init__(self):
            super().__init__({"enable": In(1)})

        def elaborate(self, platform):
            m = Module()
            m.submodules.stage = Stage(1)
            return EnableInserter(self.enable)(m)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnusedElaboratable)  # what is left when a conversion fails
        with pytest.raises(TypeError, match="machine_stage"):
            to_rtlil(Held(), "machine")
        gc.collect()


def test_no_gateware_takes_amaranths_inserters():
    root = Path(shared_module.__file__).parents[2]
    pattern = re.compile(r"from amaranth\S* import [^\n]*\b(ResetInserter|EnableInserter)\b")
    sources = [path for folder in ("hw", "sim") for path in (root / folder).rglob("*.py") if path.name != "shared.py"]
    found = [path.name for path in sources if pattern.search(path.read_text())]
    assert found == []


def test_amaranths_simulator_sees_components():
    machine, seen = Machine(), []

    async def bench(ctx):
        for value in range(50):
            ctx.set(machine.a, value)
            await ctx.tick()
            seen.append(ctx.get(machine.o))

    simulator = Simulator(machine)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    assert len(set(seen)) > 10


def test_the_text_is_the_same_in_every_process():
    script = (
        "import importlib.util\n"
        f"spec = importlib.util.spec_from_file_location('m', {__file__!r}); m = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(m)\n"
        "print(m.to_rtlil(m.Machine(), 'machine'))\n")
    texts = {to_rtlil(Machine(), "machine").strip(), to_rtlil(Machine(), "machine").strip()}
    for seed in ("1", "4242"):
        env = dict(os.environ, PYTHONHASHSEED=seed)
        run = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True)
        texts.add(run.stdout.strip())
    assert len(texts) == 1


@pytest.mark.parametrize("make", [lambda: Stage(1), lambda: HammingUnit(preset("tiny"))], ids=["shared", "unshared"])
def test_the_top_may_be_shared_itself(make):
    assert module_names(emit_verilog(make(), name="top"))[-1] == "top"


class Several(wiring.Component):
    def __init__(self, children):
        self.children = children
        super().__init__({"a": In(8)})

    def elaborate(self, platform):
        m = Module()
        for index, child in enumerate(self.children):
            m.submodules[f"child{index}"] = child
            m.d.comb += child.a.eq(self.a)
        return m


def modules_of(*children):
    names = re.findall(r"^module \\(\S+)$", to_rtlil(Several(children), "top"), re.M)
    return [name for name in names if "." not in name]


def test_defaults_and_names_of_arguments_do_not_matter():
    assert modules_of(Stage(1), Stage(step=1), Stage(1, 1)) == ["top_adder", "top_stage", "top"]


def test_equal_numbers_of_other_types_are_other_arguments():
    assert modules_of(Adder(step=1), Adder(step=True)) == ["top_adder", "top_adder_2", "top"]


def test_subclasses_are_not_shared():
    class Special(Adder):
        pass

    assert modules_of(Special(step=1), Special(step=1)) == ["top"]


@shared
class Global(wiring.Component):
    """Depends on more than its arguments, which is wrong."""

    width = 8

    def __init__(self):
        super().__init__({"a": In(8), "o": Out(self.width)})

    def elaborate(self, platform):
        m = Module()
        m.d.sync += self.o.eq(self.a)
        return m


def test_equal_keys_of_components_with_different_ports_are_refused(monkeypatch):
    first = Global()
    monkeypatch.setattr(Global, "width", 4)
    with pytest.raises(ValueError, match="components with equal arguments must be equal"):
        modules_of(first, Global())


def test_equal_keys_of_components_with_different_attributes_are_refused():
    changed = Adder(step=1)
    changed.step = 2
    with pytest.raises(ValueError, match="components with equal arguments must be equal"):
        modules_of(Adder(step=1), changed)


def test_arguments_that_may_change_are_refused():
    with pytest.raises(ValueError, match=r"`step` of a shared component must be hashable, not `\[1\]`"):
        Adder(step=[1])


def test_other_clock_domains_are_refused():
    @shared
    class Foreign(wiring.Component):
        def __init__(self):
            super().__init__({"a": In(8), "o": Out(8)})

        def elaborate(self, platform):
            m = Module()
            m.d.video += self.o.eq(self.a)
            return m

    with pytest.raises(ValueError, match="must use no clock domain but `sync`: top_foreign has"):
        modules_of(Foreign())


def test_a_parent_whose_domain_has_no_reset():
    class Resetless(Group):
        def elaborate(self, platform):
            m = super().elaborate(platform)
            m.domains.sync = domain = ClockDomain(reset_less=True)
            m.d.comb += domain.clk.eq(self.a[0])
            return m

    assert ".rst(1'h0)" in emit_verilog(Resetless(), name="resetless")


def test_multipliers_are_found_in_shared_modules():
    @shared
    class Product(wiring.Component):
        def __init__(self):
            super().__init__({"a": In(8), "o": Out(16)})

        def elaborate(self, platform):
            m = Module()
            m.d.comb += self.o.eq(self.a * self.a)
            return m

    (cell,) = multiplier_cells(Several([Product(), Product()]))
    assert cell.startswith("top_product/")
    assert multiplier_cells(emit_verilog(Several([Product()]), name="top"))


def test_nobody_is_told_of_unused_components():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        unraisable, before = [], sys.unraisablehook
        sys.unraisablehook = unraisable.append
        try:
            to_rtlil(Machine(), "machine")
            gc.collect()
        finally:
            sys.unraisablehook = before
    assert unraisable == []


def test_the_fast_back_end_writes_what_amaranth_writes():
    class Memories(wiring.Component):
        def __init__(self):
            super().__init__({"a": In(4), "o": Out(5), "p": Out(300)})

        def elaborate(self, platform):
            m = Module()
            for name, target, init in (("small", self.o, [-1, 5, 0, 9]), ("wide", self.p, [1 << 299, 3])):
                m.submodules[name] = rows = memory.Memory(shape=target.shape(), depth=11, init=init)
                read = rows.read_port(domain="comb")
                m.d.comb += [read.addr.eq(self.a), target.eq(read.data)]
            return m

    assert gc.isenabled()
    expected = rtlil.convert(Memories(), name="top", emit_src=False)
    assert convert(Memories(), name="top") == expected
    assert gc.isenabled()
