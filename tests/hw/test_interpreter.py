"""Interpreter on hand-made instructions: residual buffer, planes to the spike banks, weights by two engines.

The accumulators are filled by a COMPUTE whose weights are all zero: so `a` is the bias, and what a DRAIN puts
out follows from the parameters and the residual buffer alone.
"""

from collections.abc import Sequence

import numpy as np
import pytest

from spikeloom.config import MachineConfig, preset
from spikeloom.hw.isa import CHUNK_BANK, CHUNK_COMMON, Core, Engine, Instruction, Mode, Opcode, Target, pack_fields
from spikeloom.hw.program.constants import pack_parameters
from spikeloom.hw.program.interpreter import Interpreter
from spikeloom.hw.program.layout import Region, TensorPlace, planes_of
from spikeloom.hw.program.memory import InterpreterError
from spikeloom.hw.program.program import OperatorInfo, Program
from spikeloom.hw.program.schedule import Access, Step, insert_tokens

PIXELS = 6
BIAS = 5


class _Maker:
    """A program of hand-made instructions with the constants that zero the accumulators."""

    def __init__(self, config: MachineConfig, bias: int = BIAS, words: int = 2) -> None:
        self.config, self.steps, self.image = config, [], bytearray(4096)
        self._constant(Target.WEIGHTS, np.zeros((config.chunk_rows, config.weight_row_bytes), np.uint8))
        header = pack_fields(CHUNK_COMMON, {"load": 1}, "").to_bytes(4, "little")
        header += pack_fields(CHUNK_BANK, {}, "").to_bytes(4, "little") * config.banks
        size = config.chunk_header_beats * config.beat_bytes
        self._constant(Target.CHUNKS, np.frombuffer(header.ljust(size, b"\0"), np.uint8)[None])
        channels = words * config.word_channels
        values = np.full(channels, bias, np.int64)
        parameters = pack_parameters(values, values * 0 + 1, values * 0, values * 0)
        self._constant(Target.PARAMETERS, np.frombuffer(parameters, np.uint8).reshape(words, -1), Opcode.LOAD_WEIGHTS_B)
        self.emit(Opcode.COMPUTE, {"core": Core.ARRAY, "chunks": 1, "rows": 1, "cols": PIXELS, "col_step": 1,
                                   "height": 1, "width": PIXELS, "acc_bank": 0},
                  [Access("WEIGHTS", 0, 999), Access("CHUNKS", 0, 1), Access("acc", 0, PIXELS, True)])

    def emit(self, opcode: Opcode, body: dict[str, int], accesses: Sequence[Access] = ()) -> None:
        self.steps.append(Step(Instruction(opcode=opcode, body=body), tuple(accesses)))

    def _constant(self, target: Target, rows: np.ndarray, opcode: Opcode = Opcode.LOAD_WEIGHTS) -> None:
        offset = len(self.image)
        self.image += rows.tobytes()
        self.emit(opcode, {"region": Region.PROGRAM, "offset": offset, "target": target,
                           "beats": rows.size // self.config.beat_bytes},
                  [Access(target.name, 0, len(rows), True)])

    def items(self, opcode: Opcode, region: Region, item: int, count: int) -> None:
        """LOAD_SHORTCUT from, or STORE_RESIDUAL to, offset 0 of a region."""
        load = opcode is Opcode.LOAD_SHORTCUT
        self.emit(opcode, {"region": region, "run": 16 * count, "count1": 1, "count2": 1, "item": item},
                  [Access("RESIDUAL", item, item + count, load), Access(region.name, 0, 9999, not load)])

    def drain(self, touched: Sequence[Access] = (), **fields: int) -> None:
        body = {"pixels": PIXELS, "words": 1, "lanes": self.config.lanes} | fields
        self.emit(Opcode.DRAIN, body, [Access("acc", 0, PIXELS), Access("PARAMETERS", 0, 1), *touched])

    def program(self, clip_items: int) -> Program:
        """`clip_items` residual items in the input region, as many beats in the output region."""
        self.emit(Opcode.END, {})
        insert_tokens(self.steps)
        code = b"".join(s.instruction.encode() for s in self.steps)
        self.image[:len(code)] = code
        size = 16 * clip_items * self.config.beat_bytes
        shape = {"channels": self.config.word_channels, "height": 1, "width": clip_items, "frames": self.config.lanes,
                 "group": self.config.word_channels, "offset": 0, "size": size, "kind": "residual"}
        tensors = {n: TensorPlace(name=n, region=r, **shape)
                   for n, r in (("input", Region.INPUT), ("output", Region.OUTPUT))}
        return Program(
            config=self.config, network_hash="", frames=self.config.lanes, image=bytes(self.image),
            instruction_count=len(self.steps), workspace_bytes=0, input_bytes=size, output_bytes=size, input="input",
            output="output", tensors=tensors,
            operators=(OperatorInfo(name="it", kind="conv", first=0, instructions=len(self.steps),
                                    synaptic_operations=0, outputs=("output",)),))


def _clip(config: MachineConfig, items: int) -> np.ndarray:
    return np.random.default_rng(0).integers(-99, 99, (config.lanes, config.word_channels, 1, items), dtype=np.int16)


def _in_place(config: MachineConfig, read: int, write: int, *, tokens: bool = True) -> Program:
    """Sixteen items from DDR to `read` on; two words, their items ten apart, drained to `write` on; back to DDR."""
    made = _Maker(config)
    made.items(Opcode.LOAD_SHORTCUT, Region.INPUT, read, 16)
    made.drain([Access("RESIDUAL", read, read + 16), Access("RESIDUAL", write, write + 16, True)],
               mode=Mode.RESIDUAL, shortcut=1, shortcut_item=read, residual=1, residual_item=write, item_stride=10)
    made.items(Opcode.STORE_RESIDUAL, Region.OUTPUT, write, PIXELS)
    program = made.program(16)
    return program if tokens else _without(program, Engine.DRAIN, Engine.STORE_RESIDUAL)


def _without(program: Program, producer: Engine, consumer: Engine) -> Program:
    image = bytearray(program.image)
    for index, instruction in enumerate(program.instructions()):
        if instruction.engine is producer:
            instruction.signal -= {consumer}
        if instruction.engine is consumer:
            instruction.wait -= {producer}
        image[64 * index:64 * index + 64] = instruction.encode()
    return Program(**{**vars(program), "image": bytes(image)})


def _stored(machine: Interpreter) -> np.ndarray:
    """Items that were stored, [lane, channel, 1, item]."""
    place = machine.program.tensors["output"]
    return place.unpack(machine.regions[Region.OUTPUT].data.tobytes(), machine.config)[..., :PIXELS]


@pytest.mark.parametrize("name", ["tiny", "small"])
@pytest.mark.parametrize("write", [20, 60])
def test_residual_in_place_and_elsewhere(name, write):
    """r = shortcut + bias, at the items it came from or at others."""
    config = preset(name)
    program, clip = _in_place(config, 20, write), _clip(config, 16)
    for seed in (None, 1, 2, 3):
        machine = Interpreter(program, clip, None if seed is None else np.random.default_rng(seed)).run()
        assert np.array_equal(_stored(machine), clip[..., :PIXELS] + BIAS)


def test_item_stride():
    """The second word reads and writes `item_stride` items further on."""
    config = preset("zcu104")
    made = _Maker(config)
    made.items(Opcode.LOAD_SHORTCUT, Region.INPUT, 0, 16)
    made.drain(words=2, mode=Mode.RESIDUAL, shortcut=1, residual=1, residual_item=100, item_stride=10)
    machine = Interpreter(made.program(16), _clip(config, 16)).run()
    assert np.flatnonzero(machine.residual.written[100:200]).tolist() == [*range(6), *range(10, 16)]
    before, after = (machine.residual.data[low:low + 16].view("<i2") for low in (0, 100))
    assert np.array_equal(after[10:], before[10:] + BIAS)
    assert np.array_equal(after[:6], before[:6] + BIAS)


def test_a_missing_token_shows():
    """STORE_RESIDUAL that does not wait for DRAIN: some interleaving stores items before they are made."""
    config = preset("tiny")
    program, clip = _in_place(config, 20, 60, tokens=False), _clip(config, 16)

    def fails(seed: int) -> bool:
        try:
            machine = Interpreter(program, clip, np.random.default_rng(seed)).run()
        except InterpreterError:
            return True
        return not np.array_equal(_stored(machine), clip[..., :PIXELS] + BIAS)

    assert any(fails(seed) for seed in range(30))


@pytest.mark.parametrize(("fields", "message"), [
    ({"shortcut_item": 0, "residual_item": 1}, "residual buffer: row 1 is written before it is read"),
    ({"item_stride": 3, "words": 2}, "writes an item of the residual buffer twice"),
    ({"pool": 1}, "`residual` with `pool`"),
    ({"spikes": 1, "raw": 1}, "more than one kind of beats"),
    ({"local": 1}, "`local` without `planes`"),
    ({"residual_item": 123}, r"residual buffer: row 123 or 128 outside 0\.\.127"),
    ({"shortcut_item": 60}, "residual buffer: row 60 is read but was never written")])
def test_refused(fields, message):
    config = preset("tiny")
    made = _Maker(config)
    made.items(Opcode.LOAD_SHORTCUT, Region.INPUT, 0, 16)
    made.drain(**{"mode": Mode.RESIDUAL, "shortcut": 1, "residual": 1, "item_stride": 6} | fields)
    with pytest.raises(InterpreterError, match=rf"instruction 5 \(DRAIN of it\): .*{message}"):
        Interpreter(made.program(16), _clip(config, 16)).run()


@pytest.mark.parametrize("name", ["tiny", "zcu104-half", "zcu104"])
def test_local_planes(name):
    """Plane p of word k: bank (local_bank + k + p) % banks, 8 / banks places per bank."""
    config = preset(name)
    words = min(2, config.output_words)
    made = _Maker(config, bias=-37)
    made.drain(words=words, mode=Mode.PLANES, planes=1, local=1, local_bank=1, local_address=40, local_stride=100)
    machine = Interpreter(made.program(16), _clip(config, 16)).run()
    values = np.full((config.word_channels, config.lanes), -37, np.int8)
    expected = planes_of(values, config)
    for k in range(words):
        for plane in range(8):
            bank = machine.banks[(1 + k + plane) % config.banks]
            low = 40 + plane // config.banks * 100 + k * PIXELS
            assert bank.written[low:low + PIXELS].all()
            assert (bank.data[low:low + PIXELS] == expected[plane]).all()
    assert sum(b.written.sum() for b in machine.banks) == 8 * words * PIXELS


def test_weights_by_the_second_engine():
    """LOAD_WEIGHTS_B fills the same buffers, in the queue of SHORTCUT."""
    assert Instruction(opcode=Opcode.LOAD_WEIGHTS_B).engine is Engine.SHORTCUT
    config = preset("tiny")
    made = _Maker(config)
    machine = Interpreter(made.program(1), _clip(config, 1)).run()
    assert machine.buffers[Target.PARAMETERS].written[:2].all()


def test_parts_of_items():
    config = preset("tiny")
    made = _Maker(config)
    made.emit(Opcode.LOAD_SHORTCUT, {"region": Region.INPUT, "run": 15, "count1": 1, "count2": 1})
    with pytest.raises(InterpreterError, match="residual buffer: 15 beats are not whole rows"):
        Interpreter(made.program(1), _clip(config, 1)).run()
