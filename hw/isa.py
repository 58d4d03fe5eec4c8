"""Instructions: the one definition for the sequencer, the compiler and the disassembler.

An instruction is 512 bits (`512 / beat_bits` beats), little-endian:

    bits      field
    7:0       opcode
    15:8      wait: one bit per producer engine; one token is taken from semaphore [producer][this engine] of each
    23:16     signal: one bit per consumer engine; at completion a token is put into [this engine][consumer] of each
    31:24     zero
    47:32     layer: index of the network operator it works for (reports only)
    63:48     zero
    479:64    body, fields of the opcode from the lowest bit up
    511:480   CRC-32 (zlib) of the 60 bytes below

A program is a sequence of instructions that ends with END. The sequencer fetches them in order and puts each into the
queue of its engine; an engine executes its queue in order: waits for its tokens, works, signals. In program order every
wait has its signal before it, so a program cannot deadlock.

Chunk headers (chunk buffer; `config.chunk_header_beats` beats each): a 32-bit common word, then one 32-bit word per
bank. One chunk is one pass of all pixels of a COMPUTE through the array with one set of tables.
"""

from __future__ import annotations

import enum
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field

INSTRUCTION_BYTES = 64
BODY_LOW, BODY_HIGH = 64, 480


class Engine(enum.IntEnum):
    """Engines with an instruction queue, in the order of `registers.ENGINE_NAMES`."""

    LOAD = 0
    WEIGHT = 1
    SHORTCUT = 2
    COMPUTE = 3
    DRAIN = 4
    STORE = 5
    STORE_RESIDUAL = 6
    SEQUENCER = 7


class Opcode(enum.IntEnum):
    """Operation codes; 0 is invalid, so that zeroed memory is not a program."""

    END = 1
    LOAD = 2
    LOAD_PIXELS = 3
    LOAD_WEIGHTS = 4
    LOAD_SHORTCUT = 5
    COMPUTE = 6
    DRAIN = 7
    STORE = 8
    STORE_RESIDUAL = 9
    LOAD_WEIGHTS_B = 10
    """LOAD_WEIGHTS on the engine SHORTCUT, so that two ports bring weights."""


ENGINE_OF: Mapping[Opcode, Engine] = {
    Opcode.END: Engine.SEQUENCER, Opcode.LOAD: Engine.LOAD, Opcode.LOAD_PIXELS: Engine.LOAD,
    Opcode.LOAD_WEIGHTS: Engine.WEIGHT, Opcode.LOAD_SHORTCUT: Engine.SHORTCUT, Opcode.COMPUTE: Engine.COMPUTE,
    Opcode.DRAIN: Engine.DRAIN, Opcode.STORE: Engine.STORE, Opcode.STORE_RESIDUAL: Engine.STORE_RESIDUAL,
    Opcode.LOAD_WEIGHTS_B: Engine.SHORTCUT}


class Target(enum.IntEnum):
    """Buffers that LOAD_WEIGHTS fills."""

    WEIGHTS = 0
    CHUNKS = 1
    PARAMETERS = 2


class Core(enum.IntEnum):
    """Units that COMPUTE drives."""

    ARRAY = 0
    DEPTHWISE = 1
    HAMMING = 2
    TEMPORAL = 3
    """Machines with `temporal_unit` only."""


class Mode(enum.IntEnum):
    """Neuron stage: see `spikeloom.arithmetic`."""

    DIRECT = 0
    RESIDUAL = 1
    PLANES = 2
    SUM = 3
    """Temporal sum of `a`: V += a (saturating, no guard bits), never fires."""


class Leak(enum.IntEnum):
    """In the order of `arithmetic.LEAKS`."""

    NONE = 0
    DECAYED = 1
    HALF = 2
    QUARTER = 3
    MEMORYLESS = 4


class Source(enum.IntEnum):
    """Stream that STORE takes its beats from."""

    DRAIN = 0
    HAMMING = 1


class Accumulate(enum.IntEnum):
    """What happens to the accumulator before the sum of a chunk is added (Hamming: ZERO clears the counts)."""

    ZERO = 0
    KEEP = 1
    DOUBLE = 2
    LIMB = 3
    """times 128"""


@dataclass(frozen=True)
class BitField:
    """A field of `width` bits, two's complement if `signed`."""

    name: str
    width: int
    signed: bool = False
    description: str = ""


def _f(name: str, width: int, description: str = "", *, signed: bool = False) -> BitField:
    return BitField(name, width, signed, description)


# DDR side of a transfer: run beats are contiguous; count1 runs `stride1` bytes apart; count2 of those `stride2` apart.
_TRANSFER = (
    _f("region", 2, "DDR region"), _f("offset", 32, "byte offset in the region, beat aligned"),
    _f("run", 24, "contiguous beats"), _f("count1", 16, "runs"), _f("stride1", 32, "bytes from run to run"),
    _f("count2", 16, "repetitions of all that"), _f("stride2", 32, "bytes from repetition to repetition"))

_WEIGHTS = (
    _f("region", 2), _f("offset", 32), _f("beats", 24), _f("target", 2, "Target"),
    _f("row", 16, "first row of the target buffer"))

FIELDS: Mapping[Opcode, tuple[BitField, ...]] = {
    Opcode.END: (),
    Opcode.LOAD: (*_TRANSFER,
        _f("address", 20, "first word address in the banks; beats go to consecutive addresses"),
        _f("bank_mask", 8, "banks written (all with the same word)")),
    Opcode.LOAD_PIXELS: (
        _f("region", 2), _f("offset", 32, "byte offset of frame 0 of this lane group, row 0"),
        _f("pitch", 24, "bytes from row to row, beat aligned"), _f("frame_stride", 32, "bytes from frame to frame"),
        _f("frames", 4, "valid lanes 1..lanes; the others read 0"), _f("row", 16, "first input row", signed=True),
        _f("rows", 16, "input rows packed, one after the other"), _f("height", 16, "input rows of the picture"),
        _f("row_bytes", 16, "3 * width"), _f("start", 16, "byte position of column 0, window start", signed=True),
        _f("step", 8, "bytes from output column to output column (3 * stride)"), _f("cols", 16, "output columns"),
        _f("words", 4, "words per window: channel i of word j is byte `j * word_channels + i` of the window"),
        _f("fold", 4, "power of two <= banks: word j goes to the banks b with b % fold == j % fold"),
        _f("pad0", 8, "code outside the picture, colour 0"), _f("pad1", 8), _f("pad2", 8),
        _f("address", 20, "word address of (plane 0, word 0, first row, column 0)"),
        _f("plane_stride", 20, "addresses from plane to plane"),
        _f("word_stride", 20, "addresses from word j to word j + fold")),
    Opcode.LOAD_WEIGHTS: _WEIGHTS,
    Opcode.LOAD_WEIGHTS_B: _WEIGHTS,
    Opcode.LOAD_SHORTCUT: (*_TRANSFER, _f("item", 16, "first item of the residual buffer; an item is 16 beats")),
    Opcode.COMPUTE: (
        _f("core", 2, "Core"), _f("chunk", 16, "first chunk header"), _f("chunks", 16, "chunks"),
        _f("rows", 16, "rows walked"), _f("cols", 16, "columns walked per row"),
        _f("skip", 8, "columns at the start of a row that only fill the depthwise window, or the counters of temporal"),
        _f("address", 20, "bank address of the first position"), _f("col_step", 20, "to the next column", signed=True),
        _f("row_step", 20, "from row start to row start", signed=True),
        _f("y", 16, "input row of the first position, tap offset excluded", signed=True),
        _f("x", 16, "input column of the first position", signed=True),
        _f("y_step", 8, "rows per row"), _f("x_step", 8, "columns per column"),
        _f("height", 16, "input rows: outside [0, height) reads zero"), _f("width", 16, "input columns, likewise"),
        _f("acc_bank", 1, "accumulator bank"), _f("acc_base", 16, "accumulator address of the first pixel")),
    Opcode.DRAIN: (
        _f("acc_bank", 1), _f("acc_base", 16), _f("pixels", 16, "pixels"), _f("word", 8, "first output word"),
        _f("words", 8, "output words; items go out word by word, in each pixel by pixel"),
        _f("parameter", 16, "parameter row of the first word, then rising"), _f("mode", 2, "Mode"),
        _f("shortcut", 1, "add the shortcut: items of the residual buffer"),
        _f("shortcut_item", 16, "item of the first word's first pixel, then rising pixel by pixel"),
        _f("spikes", 1, "put out spikes"), _f("residual", 1, "write r to the residual buffer"),
        _f("residual_item", 16, "likewise; may be `shortcut_item`: an item is read before it is written"),
        _f("item_stride", 16, "items from word to word, of both"),
        _f("planes", 1, "put out bit-planes"),
        _f("local", 1, "planes go to the spike banks, not to the main stream: plane p of word k (0 is `word`), pixel "
           "x to bank (local_bank + k + p) % banks, address local_address + (p // banks) * local_stride + "
           "k * pixels + x"),
        _f("local_bank", 3), _f("local_address", 20), _f("local_stride", 20),
        _f("raw", 1, "put out the temporal sums (mode SUM)"),
        _f("pool", 1, "replace r by its sum over pixels: one item per word, at the last pixel of pool_last"),
        _f("pool_first", 1, "start the spatial sums at zero"), _f("pool_last", 1, "put them out"),
        _f("leak", 3, "Leak"), _f("soft", 1, "soft reset"), _f("strict", 1, "fire at > instead of >="),
        _f("lanes", 4, "valid lanes; in the others spikes, planes and residual are 0 and V is kept"),
        _f("carry_in", 1, "V starts from the carry memory instead of 0"),
        _f("carry", 16, "carry address of the first item, then rising")),
    Opcode.STORE: (*_TRANSFER, _f("source", 1, "Source")),
    Opcode.STORE_RESIDUAL: (*_TRANSFER, _f("item", 16, "first item of the residual buffer")),
}
"""Body fields of every opcode, from the lowest bit up."""

CHUNK_COMMON: tuple[BitField, ...] = (
    _f("accumulate", 2, "Accumulate"), _f("negate", 1, "fill the tables with negated weights"),
    _f("bipolar", 1, "inputs are 2s-1 (Hamming: M = 2 popcount(K & V) - popcount(V); temporal: D - 2 popcount(Q ^ K))"),
    _f("load", 1, "fill the tables first; else reuse those of the chunk before"),
    _f("finish", 1, "Hamming: put the matrix out after this chunk"), _f("limbs", 2, "Hamming: limbs, 2 or 3"),
    _f("swap", 1, "use the tables of the chunk before the last, as they are (`load` is 0)"),
    _f("lane", 3, "temporal: frame of K and V; with `single`: the lane"),
    _f("single", 1, "only lane `lane` counts: accumulators of the others stay as they are, even with ZERO; Hamming: V "
       "of the others is 0"),
    _f("reserved", 3),
    _f("operand", 16, "row of the weight buffer; Hamming: mask of valid rows (channels of K); temporal: channels of a "
       "head x levels of Q"))
CHUNK_BANK: tuple[BitField, ...] = (
    _f("offset", 20, "added to the position's address", signed=True), _f("dy", 5, "added to y", signed=True),
    _f("dx", 5, "added to x", signed=True), _f("enable", 1, "0: the bank reads as zero"), _f("reserved", 1))


class EncodingError(ValueError):
    """A field value that does not fit, or bytes that are not an instruction."""


def pack_fields(fields: tuple[BitField, ...], values: Mapping[str, int], where: str) -> int:
    """Pack `values` (missing ones are 0) into an integer. Raises EncodingError naming the field."""
    unknown = set(values) - {f.name for f in fields}
    if unknown:
        raise EncodingError(f"{where}: unknown fields {sorted(unknown)}")
    word, low = 0, 0
    for entry in fields:
        value = int(values.get(entry.name, 0))
        least = -(1 << (entry.width - 1)) if entry.signed else 0
        if not least <= value < least + (1 << entry.width):
            raise EncodingError(f"{where}: `{entry.name}` must fit {entry.width} bits, not `{value}`")
        word |= (value & ((1 << entry.width) - 1)) << low
        low += entry.width
    return word


def unpack_fields(fields: tuple[BitField, ...], word: int) -> dict[str, int]:
    """Inverse of `pack_fields`."""
    values = {}
    for entry in fields:
        value = word & ((1 << entry.width) - 1)
        if entry.signed and value >> (entry.width - 1):
            value -= 1 << entry.width
        values[entry.name] = value
        word >>= entry.width
    return values


@dataclass(kw_only=True)
class Instruction:
    """One instruction; `wait` and `signal` are sets of engines, `body` maps the opcode's fields."""

    opcode: Opcode
    layer: int = 0
    wait: frozenset[Engine] = frozenset()
    signal: frozenset[Engine] = frozenset()
    body: dict[str, int] = field(default_factory=dict)

    @property
    def engine(self) -> Engine:
        return ENGINE_OF[self.opcode]

    def encode(self) -> bytes:
        """64 bytes. Raises EncodingError."""
        where = self.opcode.name
        word = int(self.opcode) | sum(1 << e for e in self.wait) << 8 | sum(1 << e for e in self.signal) << 16
        word |= pack_fields((_f("layer", 16),), {"layer": self.layer}, where) << 32
        word |= pack_fields(FIELDS[self.opcode], self.body, where) << BODY_LOW
        data = word.to_bytes(INSTRUCTION_BYTES - 4, "little")
        return data + zlib.crc32(data).to_bytes(4, "little")

    @classmethod
    def decode(cls, data: bytes) -> Instruction:
        """Inverse of `encode`. Raises EncodingError for a bad length, checksum or opcode."""
        if len(data) != INSTRUCTION_BYTES:
            raise EncodingError(f"an instruction has {INSTRUCTION_BYTES} bytes, not {len(data)}")
        if zlib.crc32(data[:-4]) != int.from_bytes(data[-4:], "little"):
            raise EncodingError("bad checksum")
        word = int.from_bytes(data[:-4], "little")
        if word & 0xFF not in Opcode._value2member_map_:
            raise EncodingError(f"bad opcode {word & 0xFF}")
        opcode = Opcode(word & 0xFF)
        engines = [frozenset(e for e in Engine if word >> (low + e) & 1) for low in (8, 16)]
        return cls(opcode=opcode, layer=word >> 32 & 0xFFFF, wait=engines[0], signal=engines[1],
                   body=unpack_fields(FIELDS[opcode], word >> BODY_LOW & (1 << (BODY_HIGH - BODY_LOW)) - 1))


for _opcode, _fields in FIELDS.items():
    if sum(f.width for f in _fields) > BODY_HIGH - BODY_LOW:
        raise AssertionError(f"{_opcode.name} does not fit the body")
for _word in (CHUNK_COMMON, CHUNK_BANK):
    if sum(f.width for f in _word) != 32:
        raise AssertionError("a chunk header word has 32 bits")
