"""DRAIN: accumulators and shortcut -> neuron unit -> main stream, residual buffer, spike banks.

::

    body ->  issue  -- acc_bank, acc_word, acc_address --> accumulators ---acc_data---.
             (room) -- parameter_row --> parameters -------parameter_data-----------. |
              | |   -- shortcut_item --> residual buffer --shortcut_data----------. | |
              | |                                     carry memory <-> V0, V -> [ neuron unit ]
              | '- settings, addresses travel with the item, fixed latency ----.    |     |
              '---------- one credit per free place <--- spike FIFO, wide FIFO | <--'     '-> residual_write, plane_mask
    done <- behind the last item                             '--main--'        '-> residual_row, plane_address

An item is one pixel of one output word. Items are issued word by word, in each word pixel by pixel, one per cycle, and
only while every FIFO that they will enter has room for all that is in flight; so the pipeline never stalls midway.
Whatever an item needs on its way (settings, addresses, where its results go) is delayed along with it; so the items of
the next instruction may follow at once, unless they read what those before have yet to write.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, unsigned
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
from .pipeline import delayed, delayed_flag, register
from .plane_write import ADDRESS_BITS, PlaneWrite

__all__ = ["DrainEngine", "DrainMemories"]

SPIKE_DEPTH = 64
"""Places for spike beats: more than the pipeline is long, so that one item per cycle is sustained."""

ITEM_DEPTH = 32
"""Places for items of planes and raw sums; these take several beats each. 32 is one LUT RAM deep."""

_TAIL = 16
"""Items at the end of an instruction that may be on their way when the next one begins to read residuals, at most."""

_MOST_RESIDUAL_LATENCY = 10
"""With more, residuals would be on their way for more than `_TAIL` cycles."""


@dataclass(kw_only=True)
class DrainMemories:
    """What the model of `DrainEngine` reads and keeps between instructions, int64.

    Attributes:
        accumulators: [2, output_words, accumulator_depth, word_channels, lanes].
        residual: [residual_depth, word_channels, lanes], updated.
        parameters: [parameter_depth, word_channels, 3]: bias, threshold, misc.
        carry: [output_words * accumulator_depth, word_channels], updated.
        sums: [output_words, word_channels, lanes], updated.
    """

    accumulators: NDArray[np.int64]
    residual: NDArray[np.int64]
    parameters: NDArray[np.int64]
    carry: NDArray[np.int64]
    sums: NDArray[np.int64]


class DrainEngine(wiring.Component):
    """Executes DRAIN instructions.

    The order of the items is: for word in words, for pixel in pixels. Fields as in `hw/isa.py`; beyond that:

    * `main` carries the spikes (1 beat per item), planes (8 beats) or raw sums (`raw_beats`): at most one kind per
      instruction. Planes with `local` are not among them. A change of kind waits until the FIFOs are empty.
    * `pool` (mode RESIDUAL; spikes only): no item is put out but the last pixel of each word, if `pool_last`; r is not
      written to the residual buffer.
    * The carry address rises by one per item put out, that is per word with `pool`. V is written back for every item
      put out, except in mode PLANES.
    * No item of an instruction may read, as its shortcut, what another one of the same instruction writes.
    * `pixels` or `words` of 0 does nothing and completes.

    An instruction is taken once all items of the one before are issued. Its own follow after `GAP` cycles; but first
    everything before must have left the pipeline if it reads the carry memory or spatial sums or changes the kind of
    main beats, and the last residuals must be written if it may read them as shortcuts.

    Args:
        config: The machine.
        acc_latency: Cycles from accumulator address to `acc_data`, at least 1.
        residual_latency: Cycles from `shortcut_item` to `shortcut_data`, from 1 to `acc_latency` + 3, at most 10. A
            write must be seen by a read `READ_AFTER_WRITE` cycles later.

    Ports:
        i: Body bits of a DRAIN; ready while no item is left to be issued.
        done: High for one cycle for every instruction, in order, when it is complete: its last beats are in the output
            FIFO, residuals, planes and carry memory are written. Not before the second cycle after the transfer on
            `i`; possibly after the transfer of the next instructions.
        acc_bank, acc_address, acc_word: Accumulators wanted; `acc_data` (24 bits at `(channel * lanes + lane) * 24`)
            is valid `acc_latency` cycles later. Every item reads its accumulators exactly once, in order.
        acc_read: High in the cycles in which an item is read (the others may read what they like).
        shortcut_en, shortcut_item, shortcut_data: Item of the residual buffer wanted (16 bits at
            `(channel * lanes + lane) * 16`); data `residual_latency` cycles after, 0 where none was wanted.
        residual_write, residual_row, residual_data: r of an item, to the residual buffer.
        plane_valid, plane_mask, plane_address, plane_data: Planes, to the spike banks: see `PlaneWrite`.
        parameter_row, parameter_data: Neuron parameters, data (`96 * word_channels`) one cycle after the address.
        main: Output beats (`beat_bits`).
    """

    i: stream.Interface
    done: Signal
    acc_read: Signal
    acc_bank: Signal
    acc_address: Signal
    acc_word: Signal
    acc_data: Signal
    shortcut_en: Signal
    shortcut_item: Signal
    shortcut_data: Signal
    residual_write: Signal
    residual_row: Signal
    residual_data: Signal
    plane_valid: Signal
    plane_mask: Signal
    plane_address: Signal
    plane_data: Signal
    parameter_row: Signal
    parameter_data: Signal
    main: stream.Interface

    GAP = 2
    """Idle cycles between the items of two instructions."""

    READ_AFTER_WRITE = 4
    """Cycles from `residual_write` to the first `shortcut_item` that must bring the new value."""

    def __init__(self, config: MachineConfig, *, acc_latency: int = 2, residual_latency: int = 3) -> None:
        if acc_latency < 1:
            raise ValueError(f"`acc_latency` must be at least 1, not `{acc_latency!r}`")
        most = min(acc_latency + NeuronUnit.SHORTCUT_CYCLE, _MOST_RESIDUAL_LATENCY)
        if not 1 <= residual_latency <= most:
            raise ValueError(f"`residual_latency` must be from 1 to {most}, not `{residual_latency!r}`")
        self.config = config
        self.acc_latency, self.residual_latency = acc_latency, residual_latency
        self._unit, self._planes = NeuronUnit(config), PlaneWrite(config)
        neurons, channels = config.beat_bits, config.word_channels
        super().__init__({
            "i": In(stream.Signature(unsigned(BODY_BITS))), "done": Out(1),
            "acc_read": Out(1), "acc_bank": Out(1), "acc_address": Out(range(config.accumulator_depth)),
            "acc_word": Out(max(1, ceil_log2(config.output_words))), "acc_data": In(neurons * ACCUMULATOR_BITS),
            "shortcut_en": Out(1), "shortcut_item": Out(range(config.residual_depth)),
            "shortcut_data": In(neurons * RESIDUAL_BITS),
            "residual_write": Out(1), "residual_row": Out(range(config.residual_depth)),
            "residual_data": Out(neurons * RESIDUAL_BITS),
            "plane_valid": Out(1), "plane_mask": Out(config.banks), "plane_address": Out(ADDRESS_BITS),
            "plane_data": Out(config.banks * neurons),
            "parameter_row": Out(range(config.parameter_depth)), "parameter_data": In(channels * PARAMETER.size),
            "main": Out(stream.Signature(unsigned(neurons)))})

    @property
    def carry_depth(self) -> int:
        """Items that the carry memory holds."""
        return self.config.output_words * self.config.accumulator_depth

    @property
    def residual_cycle(self) -> int:
        """Cycles from `acc_read` of an item to its `residual_write`."""
        return self.acc_latency + self._unit.early_latency

    @property
    def plane_cycle(self) -> int:
        """Cycles from `acc_read` of an item to the first write of its planes to the spike banks."""
        return self.residual_cycle + self._planes.latency

    @property
    def plane_interval(self) -> int:
        """Cycles per item with `local`."""
        return self._planes.interval

    @property
    def early_latency(self) -> int:
        """Cycles from `acc_read` of an item to its plane beats at the output, if nothing waits."""
        return self.residual_cycle + 2

    @property
    def latency(self) -> int:
        """Cycles from `acc_read` of an item to its spike or raw beats at the output, if nothing waits."""
        return self.acc_latency + self._unit.latency + 2

    @property
    def flight(self) -> int:
        """Cycles from `acc_read` of the last item to `done`."""
        planes = self.plane_cycle + self._planes.interval - 1
        return 1 + max(self.acc_latency + self._unit.latency, planes)

    @property
    def residual_wait(self) -> int:
        """Least cycles from `acc_read` of an item to that of one which reads the residual of the first."""
        return (self._unit.early_latency + self.READ_AFTER_WRITE + self.residual_latency
                - self._unit.SHORTCUT_CYCLE)

    def issue_cycles(self, body: Mapping[str, int]) -> int:
        """Cycles from the first item of an instruction to the last, both included, if the FIFOs never fill up."""
        items = body["pixels"] * body["words"]
        every = self._planes.interval if body.get("planes") and body.get("local") else 1
        return every * (items - 1) + 1 if items else 0

    def cycles(self, body: Mapping[str, int]) -> int:
        """Cycles from the transfer on `i` to `done`, if the engine is idle before and the FIFOs never fill up.

        A spike instruction does not fill them if `main` is always ready.
        """
        return 1 + self.issue_cycles(body) + self.flight

    def model(
        self, body: Mapping[str, int], memories: DrainMemories,
    ) -> tuple[list[int], list[tuple[int, int, int]]]:
        """(beats of `main`, writes of planes) of one instruction; missing fields are 0. `memories` are updated.

        A write of planes is (mask, address, data), data being 0 outside of the mask.
        """
        body = {entry.name: 0 for entry in FIELDS[Opcode.DRAIN]} | dict(body)
        pixels, words = body["pixels"], body["words"]
        if not pixels or not words:
            return [], []
        word = slice(body["word"], body["word"] + words)
        acc = memories.accumulators[body["acc_bank"], word, body["acc_base"]:body["acc_base"] + pixels]
        parameters = memories.parameters[body["parameter"]:body["parameter"] + words]
        count, emit = (words, body["pool_last"]) if body["pool"] else (words * pixels, 1)
        items = body["item_stride"] * np.arange(words)[:, None] + np.arange(pixels)
        shortcut = memories.residual[body["shortcut_item"] + items] if body["shortcut"] else 0 * acc
        place = slice(body["carry"], body["carry"] + count)
        carry = np.zeros((words, count // words, self.config.word_channels), np.int64)
        if emit and body["carry_in"]:
            carry = memories.carry[place].reshape(carry.shape)
        result = self._unit.model(body, acc, parameters, shortcut, carry, memories.sums[word])
        if body["pool"]:
            memories.sums[word] = result.sums
        elif body["residual"]:
            memories.residual[body["residual_item"] + items] = result.residual
        if not emit:
            return [], []
        if body["mode"] != Mode.PLANES:
            memories.carry[place] = result.membranes.reshape(count, -1)
        main = self._items(result.spikes, 1) if body["spikes"] else []
        main += self._items(result.membranes, MEMBRANE_BITS) if body["raw"] else []
        planes = self._items(result.planes, PLANE_BITS, by_plane=True) if body["planes"] else []
        return (main, self._local_writes(body, planes)) if body["local"] else (main + planes, [])

    def _local_writes(self, body: Mapping[str, int], planes: list[int]) -> list[tuple[int, int, int]]:
        """The writes of all items; planes[8 * item + p]."""
        writes = []
        for item in range(len(planes) // PLANE_BITS):
            writes += self._planes.model(
                planes[PLANE_BITS * item:][:PLANE_BITS], body["local_bank"] + item // body["pixels"],
                body["local_address"] + item, body["local_stride"])
        return writes

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
        m.submodules.unit, m.submodules.planes = self._unit, self._planes
        m.submodules.walk = walk = ItemWalk(self.config)
        work = Signal(body_layout(Opcode.DRAIN))
        m.d.comb += walk.work.eq(work)
        late = self._pushes(m, work, walk)
        may_start = self._outputs(m, work, walk, late)
        self._control(m, work, walk, may_start)
        self._read(m, work, walk)
        self._write(m, work, walk)
        self._carry(m, walk, late["carry"])
        return m

    def _control(self, m: Module, work: data.View, walk: ItemWalk, may_start: Value) -> None:
        """Take an instruction, walk its items; `done` follows the last one, or the token of an empty instruction."""
        finish, some = Signal(), Signal()
        following = data.View(work.shape(), self.i.payload)
        m.d.comb += self.done.eq(delayed_flag(m, finish, self.flight, "finish")[-1])
        with m.FSM():
            with m.State("TAKE"):
                m.d.comb += self.i.ready.eq(1)
                m.d.sync += some.eq(following.pixels.any() & following.words.any())
                with m.If(self.i.valid):
                    m.d.sync += work.eq(self.i.payload)
                    m.next = "START"
            with m.State("START"):
                m.d.comb += [walk.start.eq(may_start & some), finish.eq(may_start & ~some)]
                with m.If(walk.start):
                    m.next = "WALK"
                with m.If(finish):
                    m.next = "TAKE"
            with m.State("WALK"):
                m.d.comb += finish.eq(walk.issue & walk.final)
                with m.If(finish):
                    m.next = "TAKE"

    def _pushes(self, m: Module, work: data.View, walk: ItemWalk) -> dict[str, Value]:
        """Flags of the present item when its spikes and membranes come out of the unit."""
        flight = self.acc_latency + self._unit.latency
        put = {"spikes": work.spikes, "raw": work.raw, "carry": work.mode != Mode.PLANES}
        return {name: delayed_flag(m, walk.issue & walk.emit & wanted, flight, f"late_{name}")[-1]
                for name, wanted in put.items()}

    def _outputs(self, m: Module, work: data.View, walk: ItemWalk, late: Mapping[str, Value]) -> Value:
        """FIFOs behind the unit. Returns whether the items in `work` may be issued, as far as others matter."""
        unit, beat_bits = self._unit, self.config.beat_bits
        wide_beats = max(PLANE_BITS, self.config.raw_beats)
        m.submodules.spikes = spikes = CreditFifo(beat_bits, SPIKE_DEPTH)
        m.submodules.wide = wide = CreditFifo(wide_beats * beat_bits, ITEM_DEPTH)
        is_planes = work.planes & ~work.local
        self._reserve(m, work, walk, {spikes: work.spikes, wide: is_planes | work.raw})
        planes = delayed_flag(m, walk.issue & walk.emit & is_planes, self.residual_cycle, "early_planes")[-1]
        m.d.comb += [
            spikes.item.eq(unit.spikes), spikes.push.eq(late["spikes"]),
            wide.item.eq(Mux(late["raw"], unit.membranes, unit.planes)), wide.push.eq(late["raw"] | planes)]
        m.submodules.main = main = BeatOutput(beat_bits, (1, wide_beats))
        for source, sink in zip((spikes, wide), main.inputs, strict=True):
            connect(m, source.o, sink)
        connect(m, main.o, flipped(self.main))
        quiet = ~_lasting(m, walk.issue, self.flight + 2, "in_flight")
        empty = Signal()  # a register: quiet has lasted long enough for that
        m.d.sync += empty.eq(quiet & spikes.empty & wide.empty)
        return (self._select(m, main, work, walk, empty) & self._in_order(m, quiet)
                & self._residual_in_order(m, work, walk))

    def _select(self, m: Module, main: BeatOutput, work: data.View, walk: ItemWalk, empty: Value) -> Value:
        """Beats of another kind than those before must wait until those are out."""
        following = data.View(work.shape(), self.i.payload)
        planes = following.planes & ~following.local
        kind, present, changes = Signal(2), Signal(2), Signal()
        new = Mux(following.spikes | planes | following.raw, Cat(planes, following.raw), present)
        m.d.sync += [  # there is time: items come out of the unit long after the start
            main.select.eq(present != 0),
            main.last.eq(Mux(present[1], self.config.raw_beats - 1, Mux(present[0], PLANE_BITS - 1, 0)))]
        with m.If(self.i.ready):
            m.d.sync += [kind.eq(new), changes.eq(new != present)]
        with m.If(walk.start):
            m.d.sync += present.eq(kind)
        return ~changes | empty

    def _in_order(self, m: Module, quiet: Value) -> Value:
        """Carry memory and spatial sums are read when all before has been written."""
        following = data.View(body_layout(Opcode.DRAIN), self.i.payload)
        alone = Signal()
        with m.If(self.i.ready):
            m.d.sync += alone.eq(following.carry_in | following.pool)
        return ~alone | quiet

    def _residual_in_order(self, m: Module, work: data.View, walk: ItemWalk) -> Value:
        """Residuals are read when they have been written.

        What may yet be on its way are up to `_TAIL` items up to `newest`, if the last word was long enough. The first
        `_TAIL` items wanted are those from `shortcut_item` up, likewise.
        """
        following = data.View(work.shape(), self.i.payload)
        newest, long, close = Signal(16), Signal(), Signal()
        begins_long = following.pixels[4:].any() | (following.words == 1)
        above = Signal(16)
        m.d.comb += above.eq(newest - following.shortcut_item)
        writes = work.residual & ~work.pool
        with m.If(self.i.ready):
            m.d.sync += close.eq(following.shortcut & (~long | ~begins_long | ~above[5:].any()))
        with m.If(walk.issue & writes):
            m.d.sync += newest.eq(walk.residual_item)
        with m.If(walk.start & writes):
            m.d.sync += long.eq(work.pixels[4:].any())
        return ~close | ~_lasting(m, walk.issue & writes, self.residual_wait - self.GAP, "writing")

    def _reserve(self, m: Module, work: data.View, walk: ItemWalk, wanted: Mapping[CreditFifo, Value]) -> None:
        """Items are issued while all FIFOs that the instruction fills have room, and the spike banks have time."""
        emit = walk.issue & walk.emit
        room = Const(1)
        for number, (queue, wanting) in enumerate(wanted.items()):
            wants = register(m, wanting, f"wants{number}")  # `work` stands for a cycle before its first item
            room &= queue.room | ~wants
            m.d.comb += queue.reserve.eq(emit & wants)
        if self._planes.interval > 1:
            local = register(m, work.planes & work.local, "wants_local")
            room &= ~(local & _lasting(m, walk.issue & local, self._planes.interval - 1, "banks_busy"))
        m.d.comb += walk.room.eq(room)

    def _read(self, m: Module, work: data.View, walk: ItemWalk) -> None:
        """Items and what belongs to them arrive at the unit; every address goes out when its data is wanted."""
        unit, arrive = self._unit, self.acc_latency
        shortcut = arrive + unit.SHORTCUT_CYCLE - self.residual_latency
        settings = Cat(work[name] for name in SETTINGS.members)
        m.d.comb += [
            self.acc_read.eq(walk.issue), self.acc_bank.eq(work.acc_bank), self.acc_address.eq(walk.address),
            self.acc_word.eq(walk.number), unit.acc.eq(self.acc_data), unit.parameters.eq(self.parameter_data),
            self.parameter_row.eq(delayed(m, walk.row, arrive - 1, "row")),
            unit.word.eq(delayed(m, walk.number, arrive, "word")),
            unit.settings.eq(delayed(m, settings, arrive, "settings")), unit.shortcut.eq(self.shortcut_data),
            self.shortcut_en.eq(delayed_flag(m, walk.issue & work.shortcut, shortcut, "shortcut")[-1]),
            self.shortcut_item.eq(delayed(m, walk.shortcut_item, shortcut, "item"))]
        flags = {"valid": walk.issue, "first": walk.first, "last": walk.last}
        for name, flag in flags.items():
            m.d.comb += getattr(unit, name).eq(delayed_flag(m, flag, arrive, name)[-1])

    def _write(self, m: Module, work: data.View, walk: ItemWalk) -> None:
        """Residuals and local planes, as they come out of the unit."""
        unit, planes, early = self._unit, self._planes, self.residual_cycle
        residual, local = walk.issue & work.residual & ~work.pool, walk.issue & walk.emit & work.planes & work.local
        m.d.comb += [
            self.residual_write.eq(delayed_flag(m, residual, early, "early_residual")[-1]),
            self.residual_row.eq(delayed(m, walk.residual_item, early, "residual_row")),
            self.residual_data.eq(unit.residual),
            planes.valid.eq(delayed_flag(m, local, early, "early_local")[-1]), planes.planes.eq(unit.planes),
            planes.bank.eq(delayed(m, walk.bank, early, "bank")),
            planes.address.eq(delayed(m, walk.plane_address, early, "plane")),
            planes.stride.eq(delayed(m, work.local_stride, early, "stride")),
            self.plane_valid.eq(planes.o_valid), self.plane_mask.eq(planes.o_mask),
            self.plane_address.eq(planes.o_address), self.plane_data.eq(planes.o_data)]

    def _carry(self, m: Module, walk: ItemWalk, written: Value) -> None:
        """Membranes of an item: read before its lane 0, written after its last lane."""
        unit = self._unit
        m.submodules.carry = carry = memory.Memory(
            shape=self.config.word_channels * MEMBRANE_BITS, depth=self.carry_depth, init=[],
            attrs={"ram_style": "ultra" if self.carry_depth >= 1024 else "block"})
        read, write = carry.read_port(), carry.write_port()
        ahead = self.acc_latency + unit.carry_cycle - 2
        after = self.acc_latency + unit.latency - ahead
        address = delayed(m, walk.carry, ahead, "carry_read")
        m.d.comb += [
            read.addr.eq(address), unit.carry.eq(register(m, read.data, "carried")),
            write.addr.eq(delayed(m, address, after, "carry_write")), write.data.eq(unit.membranes),
            write.en.eq(written)]


def _lasting(m: Module, event: Value, cycles: int, name: str) -> Value:
    """A register, high for `cycles` cycles from the one after each `event` on."""
    left, lasts = Signal(range(cycles), name=f"{name}_left"), Signal(name=name)  # cycles left beyond the present one
    with m.If(event):
        m.d.sync += [left.eq(cycles - 1), lasts.eq(1)]
    with m.Else():
        m.d.sync += [left.eq(Mux(left.any(), left - 1, 0)), lasts.eq(left.any())]
    return lasts
