"""Emission: merged, deterministic Verilog, and the proof that a component has no multiplier."""

import hashlib
import os
import subprocess
import sys

import pytest
from amaranth.hdl import Instance, Module, Signal
from amaranth.lib import fifo, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from spikeloom.hw.gateware.emit import EmitError, assert_no_multiplier, emit_verilog, merge_modules, multiplier_cells


class Leaf(wiring.Component):
    """Adds ``step`` through a small FIFO, so that it has a submodule and a memory of its own."""

    a: Signal
    o: Signal

    def __init__(self, *, step):
        self.step = step
        super().__init__({"a": In(8), "o": Out(9)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.queue = queue = fifo.SyncFIFO(width=8, depth=4)
        m.d.comb += [queue.w_data.eq(self.a), queue.w_en.eq(1), queue.r_en.eq(queue.r_rdy)]
        m.d.sync += self.o.eq(queue.r_data + self.step)
        return m


class Tree(wiring.Component):
    """Three leaves of which two are equal, and a cleared memory."""

    def __init__(self):
        super().__init__({"i": In(stream.Signature(8)), "o": Out(stream.Signature(9)), "q": Out(8)})

    def elaborate(self, platform):
        m = Module()
        leaves = [Leaf(step=1), Leaf(step=1), Leaf(step=2)]
        for index, leaf in enumerate(leaves):
            m.submodules[f"leaf{index}"] = leaf
            m.d.comb += leaf.a.eq(self.i.payload + index)
        m.submodules.store = store = memory.Memory(shape=8, depth=300, init=[])
        write, read = store.write_port(), store.read_port()
        m.d.comb += [write.addr.eq(self.i.payload), write.data.eq(leaves[0].o), write.en.eq(self.i.valid)]
        m.d.comb += [read.addr.eq(self.i.payload), self.q.eq(read.data), self.i.ready.eq(self.o.ready)]
        m.d.comb += [self.o.valid.eq(self.i.valid), self.o.payload.eq(leaves[0].o ^ leaves[1].o ^ leaves[2].o)]
        return m


class Arithmetic(wiring.Component):
    """``o = operation(a, b)``"""

    def __init__(self, operation):
        self.operation = operation
        super().__init__({"a": In(8), "b": In(8), "o": Out(16)})

    def elaborate(self, platform):
        m = Module()
        m.d.sync += self.o.eq(self.operation(self.a, self.b))
        return m


class Dsp(wiring.Component):
    def __init__(self, use_mult):
        self.use_mult = use_mult
        super().__init__({"a": In(30), "p": Out(48)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.dsp = Instance("DSP48E2", p_USE_MULT=self.use_mult, i_A=self.a, o_P=self.p)
        return m


def module_names(verilog):
    return [line.split()[1] for line in verilog.splitlines() if line.startswith("module ")]


def test_equal_modules_are_merged_and_children_come_first():
    names = module_names(emit_verilog(Tree(), name="tree"))
    assert names == ["tree_leaf0_queue", "tree_leaf0", "tree_leaf2", "tree"]


def test_a_cleared_memory_takes_a_loop_not_a_line_per_row():
    verilog = emit_verilog(Tree(), name="tree")
    assert "< 300;" in verilog
    assert verilog.count("= 8'h00;") < 10


def test_stream_ports_keep_their_double_underscore_names():
    verilog = emit_verilog(Tree(), name="tree")
    assert "module tree (clk, i__payload, i__ready, i__valid, o__payload, o__ready, o__valid, q, rst);" in verilog


@pytest.mark.parametrize("name", ["my.top", "1st", "", "a b"])
def test_bad_names_are_refused(name):
    with pytest.raises(ValueError, match="`name` must be a plain Verilog identifier"):
        emit_verilog(None, name=name)


def test_merging_needs_the_top_module():
    with pytest.raises(EmitError, match="module 'nothing' is not in the Verilog text"):
        merge_modules(emit_verilog(Tree(), name="tree"), top="nothing")


def test_the_text_is_the_same_in_every_process(tmp_path):
    """Fresh caches and different hash seeds."""
    script = (
        "import importlib.util, hashlib, sys\n"
        f"spec = importlib.util.spec_from_file_location('m', {__file__!r}); m = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(m)\n"
        "print(hashlib.sha256(m.emit_verilog(m.Tree(), name='tree').encode()).hexdigest())\n"
    )
    digests = {hashlib.sha256(emit_verilog(Tree(), name="tree").encode()).hexdigest()}
    for seed in ("1", "4242"):
        env = dict(os.environ, PYTHONHASHSEED=seed, SPIKELOOM_CACHE=str(tmp_path / seed))
        run = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True)
        digests.add(run.stdout.strip())
    assert len(digests) == 1


@pytest.mark.parametrize(
    "operation",
    [lambda a, b: a * b, lambda a, b: a * 3, lambda a, b: a // b, lambda a, b: a % b, lambda a, b: (a % 16) * (b // 2)],
    ids=["product", "by constant", "quotient", "remainder", "nested"],
)
def test_multipliers_are_found(operation):
    component = Arithmetic(operation)
    assert multiplier_cells(component)
    assert multiplier_cells(emit_verilog(component, name="arithmetic"))
    with pytest.raises(EmitError, match="must not multiply or divide"):
        assert_no_multiplier(component)


def test_adders_shifts_and_powers_of_two_are_not_multipliers():
    component = Arithmetic(lambda a, b: a * 4 + (b << a[:2]) - b.word_select(a[:1], 4))
    assert multiplier_cells(component) == []
    assert_no_multiplier(Tree())
    assert multiplier_cells(emit_verilog(Tree(), name="tree")) == []


def test_a_dsp_slice_is_judged_by_its_multiplier():
    assert multiplier_cells(Dsp("NONE")) == []
    assert multiplier_cells(Dsp("MULTIPLY")) == ["top/dsp"]
