"""DRAIN: accumulators and shortcut -> neuron unit -> main stream and residual stream.

::

    body ->  issue  -- acc_bank, acc_word, acc_address --> accumulators --acc_data--.
      ^    (credits)-- parameter_row --> parameters -----parameter_data-----------. |
      |      |     '-- shortcut_item --> shortcut buffer ---shortcut_data-------. | |
      |      |                                     carry memory <-> V0, V -> [ neuron unit ]
      |  in flight: fixed latency, never stalls                                |        |
      |      '--------- one credit per free place <------------- spike FIFO  wide FIFO  residual FIFO
    done                                                              '--main--'            '--residual

An item is one pixel of one output word. Items are issued word by word, in each word pixel by pixel, one per cycle, and
only while every FIFO that they will enter has room for all that is in flight; so the pipeline never stalls midway.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from amaranth.hdl import Const, Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped
from amaranth.utils import ceil_log2
from numpy.typing import NDArray

from spikeloom.arithmetic import MEMBRANE_BITS, PLANE_BITS, RESIDUAL_BITS
from spikeloom.config import ACCUMULATOR_BITS, MachineConfig

from ..isa import FIELDS, Mode, Opcode
from .beat_output import BeatOutput
from .credit_fifo import CreditFifo
from .instruction import BODY_BITS, body_layout
from .item_walk import ItemWalk
from .neuron import NeuronUnit
from .neuron_channel import PARAMETER, SETTINGS
from .pipeline import delayed, delayed_flag

__all__ = ["DrainEngine", "DrainMemories"]

SPIKE_DEPTH = 64
"""Spike beats held: more than the pipeline is long, so that one item per cycle is sustained."""

ITEM_DEPTH = 32
"""Items of planes, raw sums and residual held; these take 8 or more beats each. 32 is one LUT RAM deep."""


@dataclass(kw_only=True)
class DrainMemories:
    """What the model of `DrainEngine` reads and keeps between instructions, int64.

    Attributes:
        accumulators: [2, output_words, accumulator_depth, word_channels, lanes].
        shortcut: [shortcut_depth, word_channels, lanes].
        parameters: [parameter_depth, word_channels, 3]: bias, threshold, misc.
        carry: [output_words * accumulator_depth, word_channels], updated.
        sums: [output_words, word_channels, lanes], updated.
    """

    accumulators: NDArray[np.int64]
    shortcut: NDArray[np.int64]
    parameters: NDArray[np.int64]
    carry: NDArray[np.int64]
    sums: NDArray[np.int64]


class DrainEngine(wiring.Component):
    """Executes DRAIN instructions.

    An instruction is taken when the engine is idle. The order of the items is: for word in words, for pixel in pixels.
    Fields as in `hw/isa.py`; beyond that:

    * `main` carries the spikes (1 beat per item), planes (8 beats) or raw sums (`raw_beats`): at most one kind per
      instruction. `residual` carries 16 beats per item.
      A change of kind waits until the main FIFOs are empty.
    * `pool` (mode RESIDUAL; spikes only): no item is put out but the last pixel of each word, if `pool_last`.
    * The carry address rises by one per item put out, that is per word with `pool`. V is written back for every item
      put out, except in mode PLANES.
    * `pixels` or `words` of 0 does nothing and completes.

    Args:
        config: The machine.
        acc_latency: Cycles from accumulator address to `acc_data`, at least 1.

    Ports:
        i: Body bits of a DRAIN; ready while idle.
        done: High for one cycle when the instruction is complete: its last beats are in the output FIFOs, all buffers
            have been read and the carry memory is written. Not before the second cycle after the transfer on `i`.
        busy: High from the cycle after the transfer on `i` up to and including the cycle of `done`.
        acc_bank, acc_address, acc_word: Accumulators wanted; `acc_data` (24 bits at `(channel * lanes + lane) * 24`)
            is valid `acc_latency` cycles later. Every item reads its accumulators exactly once, in order.
        acc_read: High in the cycles in which an item is read (the others may read what they like).
        shortcut_item, shortcut_data: Shortcut buffer, data (`16 * beat_bits`) one cycle after the address.
        parameter_row, parameter_data: Neuron parameters, data (`96 * word_channels`) one cycle after the address.
        main, residual: Output beats (`beat_bits`).
    """

    i: stream.Interface
    done: Signal
    busy: Signal
    acc_read: Signal
    acc_bank: Signal
    acc_address: Signal
    acc_word: Signal
    acc_data: Signal
    shortcut_item: Signal
    shortcut_data: Signal
    parameter_row: Signal
    parameter_data: Signal
    main: stream.Interface
    residual: stream.Interface

    def __init__(self, config: MachineConfig, *, acc_latency: int = 2) -> None:
        if acc_latency < 1:
            raise ValueError(f"`acc_latency` must be at least 1, not `{acc_latency!r}`")
        self.config = config
        self.acc_latency = acc_latency
        self._unit = NeuronUnit(config)
        neurons, channels = config.beat_bits, config.word_channels
        super().__init__({
            "i": In(stream.Signature(unsigned(BODY_BITS))), "done": Out(1), "busy": Out(1),
            "acc_read": Out(1), "acc_bank": Out(1), "acc_address": Out(range(config.accumulator_depth)),
            "acc_word": Out(max(1, ceil_log2(config.output_words))), "acc_data": In(neurons * ACCUMULATOR_BITS),
            "shortcut_item": Out(range(config.shortcut_depth)), "shortcut_data": In(neurons * RESIDUAL_BITS),
            "parameter_row": Out(range(config.parameter_depth)), "parameter_data": In(channels * PARAMETER.size),
            "main": Out(stream.Signature(unsigned(neurons))), "residual": Out(stream.Signature(unsigned(neurons)))})

    @property
    def carry_depth(self) -> int:
        """Items that the carry memory holds."""
        return self.config.output_words * self.config.accumulator_depth

    @property
    def early_latency(self) -> int:
        """Cycles from `acc_read` of an item to its residual or plane beats at the output, if nothing waits."""
        return self.acc_latency + self._unit.early_latency + 2

    @property
    def latency(self) -> int:
        """Cycles from `acc_read` of an item to its spike or raw beats at the output, if nothing waits."""
        return self.acc_latency + self._unit.latency + 2

    def cycles(self, body: Mapping[str, int]) -> int:
        """Cycles from the transfer on `i` to `done`, if the FIFOs are empty before and never fill up.

        A spike instruction does not fill them if `main` is always ready.
        """
        items = body["pixels"] * body["words"]
        return items + self.latency if items else 2

    def model(self, body: Mapping[str, int], memories: DrainMemories) -> tuple[list[int], list[int]]:
        """Beats of (main, residual) of one instruction; missing fields are 0. `memories` are updated."""
        body = {entry.name: 0 for entry in FIELDS[Opcode.DRAIN]} | dict(body)
        pixels, words = body["pixels"], body["words"]
        if not pixels or not words:
            return [], []
        word = slice(body["word"], body["word"] + words)
        acc = memories.accumulators[body["acc_bank"], word, body["acc_base"]:body["acc_base"] + pixels]
        parameters = memories.parameters[body["parameter"]:body["parameter"] + words]
        count, emit = (words, body["pool_last"]) if body["pool"] else (words * pixels, 1)
        shortcut = 0 * acc
        if body["shortcut"]:
            shortcut = memories.shortcut[body["shortcut_item"]:][:words * pixels].reshape(acc.shape)
        place = slice(body["carry"], body["carry"] + count)
        carry = np.zeros((words, count // words, self.config.word_channels), np.int64)
        if emit and body["carry_in"]:
            carry = memories.carry[place].reshape(carry.shape)
        result = self._unit.model(body, acc, parameters, shortcut, carry, memories.sums[word])
        if body["pool"]:
            memories.sums[word] = result.sums
        if not emit:
            return [], []
        if body["mode"] != Mode.PLANES:
            memories.carry[place] = result.membranes.reshape(count, -1)
        main = self._items(result.spikes, 1) if body["spikes"] else []
        main += self._items(result.planes, PLANE_BITS, by_plane=True) if body["planes"] else []
        main += self._items(result.membranes, MEMBRANE_BITS) if body["raw"] else []
        return main, self._items(result.residual, RESIDUAL_BITS) if body["residual"] else []

    def _items(self, values: NDArray[np.int64], bits: int, *, by_plane: bool = False) -> list[int]:
        """Beats of values[words, items, ...]: `bits` bits each, the last axis fastest, or bit-plane by bit-plane."""
        flat = values.reshape(values.shape[0] * values.shape[1], -1, 1)
        binary = (flat >> np.arange(bits)) & 1
        if by_plane:
            binary = binary.swapaxes(1, 2)
        beats = np.packbits(binary.astype(np.uint8).reshape(-1, self.config.beat_bits), axis=1, bitorder="little")
        return [int.from_bytes(beat.tobytes(), "little") for beat in beats]

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.unit, m.submodules.walk = self._unit, ItemWalk(self.config)
        walk = m.submodules.walk
        work = Signal(body_layout(Opcode.DRAIN))
        self._control(m, work, walk, self._outputs(m, work, walk))
        self._read(m, work, walk)
        self._carry(m, work, walk)
        return m

    def _control(self, m: Module, work: data.View, walk: ItemWalk, may_start: Signal) -> None:
        """Take an instruction, walk its items, wait until the last one has left the pipeline."""
        flight = self.acc_latency + self._unit.latency
        gone = delayed_flag(m, walk.issue & walk.final, flight, "final")[-1]
        m.d.comb += [getattr(walk, name).eq(work[name]) for name in ("acc_base", "pixels", "word", "words")]
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.i.ready.eq(1)
                with m.If(self.i.valid):
                    m.d.sync += work.eq(self.i.payload)
                    m.next = "PREPARE"
            with m.State("PREPARE"):
                m.d.comb += [self.busy.eq(1), walk.start.eq(may_start & (work.pixels != 0) & (work.words != 0))]
                with m.If(walk.start):
                    m.next = "WORK"
                with m.Elif(may_start):
                    m.next = "DONE"
            with m.State("WORK"):
                m.d.comb += self.busy.eq(1)
                with m.If(gone):
                    m.next = "DONE"
            with m.State("DONE"):
                m.d.comb += [self.busy.eq(1), self.done.eq(1)]
                m.next = "IDLE"

    def _outputs(self, m: Module, work: data.View, walk: ItemWalk) -> Signal:
        """FIFOs behind the unit. Returns whether the instruction may start: its kind of main beats can follow."""
        unit, beat_bits = self._unit, self.config.beat_bits
        wide_beats = max(PLANE_BITS, self.config.raw_beats)
        m.submodules.spikes = spikes = CreditFifo(beat_bits, SPIKE_DEPTH)
        m.submodules.wide = wide = CreditFifo(wide_beats * beat_bits, ITEM_DEPTH)
        m.submodules.items = items = CreditFifo(RESIDUAL_BITS * beat_bits, ITEM_DEPTH)
        is_wide = work.planes | work.raw
        self._reserve(m, work, walk, {spikes: work.spikes, wide: is_wide, items: work.residual})
        m.d.comb += [
            spikes.item.eq(unit.spikes), spikes.push.eq(unit.late_valid & work.spikes),
            wide.item.eq(Mux(work.raw, unit.membranes, unit.planes)),
            wide.push.eq(Mux(work.raw, unit.late_valid, unit.early_valid & work.planes)),
            items.item.eq(unit.residual), items.push.eq(unit.early_valid & work.residual)]
        m.submodules.main = main = BeatOutput(beat_bits, (1, wide_beats))
        m.submodules.residual = residual = BeatOutput(beat_bits, (RESIDUAL_BITS,))
        for source, sink in zip((spikes, wide, items), (*main.inputs, *residual.inputs), strict=True):
            connect(m, source.o, sink)
        connect(m, main.o, flipped(self.main))
        connect(m, residual.o, flipped(self.residual))
        m.d.comb += residual.last.eq(RESIDUAL_BITS - 1)
        return self._select(m, main, work, spikes.empty & wide.empty)

    def _select(self, m: Module, main: BeatOutput, work: data.View, empty: Value) -> Signal:
        """Beats of another kind than those before must wait until those are out."""
        kind, present = Signal(2), Signal(2)
        may_start = Signal()
        m.d.comb += [
            kind.eq(Mux(work.spikes | work.planes | work.raw, work.planes | work.raw << 1, present)),
            may_start.eq((kind == present) | empty), main.select.eq(present != 0),
            main.last.eq(Mux(present[1], self.config.raw_beats - 1, Mux(present[0], PLANE_BITS - 1, 0)))]
        with m.If(may_start & self.busy):
            m.d.sync += present.eq(kind)
        return may_start

    def _reserve(self, m: Module, work: data.View, walk: ItemWalk, wanted: Mapping[CreditFifo, Value]) -> None:
        """Items are issued while all FIFOs that the instruction fills have room."""
        emit = walk.issue & _emits(work, walk)
        room = Const(1)
        for queue, wants in wanted.items():
            room &= queue.room | ~wants
            m.d.comb += queue.reserve.eq(emit & wants)
        m.d.comb += walk.room.eq(room)

    def _read(self, m: Module, work: data.View, walk: ItemWalk) -> None:
        """Items and what belongs to them arrive at the unit; every address goes out when its data is wanted."""
        unit = self._unit
        m.d.comb += [
            self.acc_read.eq(walk.issue), self.acc_bank.eq(work.acc_bank), self.acc_address.eq(walk.address),
            self.acc_word.eq(walk.number), unit.acc.eq(self.acc_data), unit.parameters.eq(self.parameter_data),
            unit.shortcut.eq(self.shortcut_data), unit.word.eq(delayed(m, walk.number, self.acc_latency, "word"))]
        m.d.comb += [unit.settings[name].eq(work[name]) for name in SETTINGS.members]
        flags = {"valid": walk.issue, "emit": walk.issue & _emits(work, walk), "first": walk.first, "last": walk.last}
        for name, flag in flags.items():
            m.d.comb += getattr(unit, name).eq(delayed_flag(m, flag, self.acc_latency, name)[-1])
        ahead = self.acc_latency - 1
        next_row = delayed_flag(m, walk.issue & walk.last, ahead, "next_row")[-1]
        next_item = delayed_flag(m, walk.issue, ahead + unit.SHORTCUT_CYCLE, "next_item")[-1]
        m.d.comb += [
            self.parameter_row.eq(_rising(m, walk.start, work.parameter, next_row, "row")),
            self.shortcut_item.eq(_rising(m, walk.start, work.shortcut_item, next_item, "item"))]

    def _carry(self, m: Module, work: data.View, walk: ItemWalk) -> None:
        """Membranes of an item: read before its lane 0, written after its last lane."""
        unit = self._unit
        m.submodules.carry = carry = memory.Memory(
            shape=self.config.word_channels * MEMBRANE_BITS, depth=self.carry_depth, init=[],
            attrs={"ram_style": "ultra" if self.carry_depth >= 1024 else "block"})
        read, write = carry.read_port(), carry.write_port()
        wanted = delayed_flag(m, unit.emit, unit.carry_cycle - 1, "carry")[-1]
        m.d.comb += [
            read.addr.eq(_rising(m, walk.start, work.carry, wanted, "carry_read")), unit.carry.eq(read.data),
            write.addr.eq(_rising(m, walk.start, work.carry, unit.late_valid, "carry_write")),
            write.data.eq(unit.membranes), write.en.eq(unit.late_valid & (work.mode != Mode.PLANES))]


def _emits(work: data.View, walk: ItemWalk) -> Value:
    """The present item is put out."""
    return ~work.pool | (work.pool_last & walk.last)


def _rising(m: Module, start: Value, first: Value, step: Value, name: str) -> Signal:
    """An address that is `first` in the cycle after `start` and rises by one after every `step`."""
    address = Signal(len(first), name=f"{name}_address")
    with m.If(start):
        m.d.sync += address.eq(first)
    with m.Elif(step):
        m.d.sync += address.eq(address + 1)
    return address
