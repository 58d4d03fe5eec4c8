"""Instructions and their bits."""

import random
import zlib

import pytest

from spikeloom.hw.isa import (
    CHUNK_BANK,
    CHUNK_COMMON,
    FIELDS,
    INSTRUCTION_BYTES,
    EncodingError,
    Engine,
    Instruction,
    Opcode,
    pack_fields,
    unpack_fields,
)


def _draw(opcode: Opcode, rng: random.Random) -> dict[str, int]:
    return {f.name: rng.randrange(1 << f.width) - (f.signed << f.width - 1) for f in FIELDS[opcode]}


@pytest.mark.parametrize("opcode", Opcode)
def test_round_trip(opcode):
    rng = random.Random(opcode)
    for _ in range(20):
        engines = [frozenset(e for e in Engine if rng.random() < 0.3) for _ in range(2)]
        instruction = Instruction(opcode=opcode, layer=rng.randrange(1 << 16), wait=engines[0], signal=engines[1],
                                  body=_draw(opcode, rng))
        data = instruction.encode()
        assert len(data) == INSTRUCTION_BYTES
        assert Instruction.decode(data) == instruction


def test_fields_lie_from_the_lowest_bit_up():
    data = Instruction(opcode=Opcode.LOAD_WEIGHTS, layer=0x1234, wait=frozenset({Engine.DRAIN}),
                       signal=frozenset({Engine.LOAD, Engine.SEQUENCER}), body={"region": 2, "offset": 1}).encode()
    word = int.from_bytes(data, "little")
    assert word & 0xFFFFFFFF == int(Opcode.LOAD_WEIGHTS) | 1 << 12 | 0x81 << 16
    assert word >> 32 & 0xFFFF == 0x1234
    assert word >> 64 & 0xF == 2 | 1 << 2


@pytest.mark.parametrize(("body", "message"), [
    ({"row": 1 << 16}, "`row` must fit 16 bits, not `65536`"),
    ({"offset": -1}, "`offset` must fit 32 bits, not `-1`"),
    ({"cheese": 1}, "unknown fields \\['cheese'\\]")])
def test_bad_fields(body, message):
    with pytest.raises(EncodingError, match=f"LOAD_WEIGHTS: {message}"):
        Instruction(opcode=Opcode.LOAD_WEIGHTS, body=body).encode()


def test_bad_bytes():
    good = Instruction(opcode=Opcode.END).encode()
    with pytest.raises(EncodingError, match="an instruction has 64 bytes, not 63"):
        Instruction.decode(good[:-1])
    for bit in range(0, 512, 37):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        with pytest.raises(EncodingError, match="bad checksum"):
            Instruction.decode(bytes(bad))
    unknown = bytes([77]) + good[1:60]
    with pytest.raises(EncodingError, match="bad opcode 77"):
        Instruction.decode(unknown + zlib.crc32(unknown).to_bytes(4, "little"))


def test_signed_fields():
    values = {"accumulate": 3, "operand": 65535}
    assert unpack_fields(CHUNK_COMMON, pack_fields(CHUNK_COMMON, values, "x"))["operand"] == 65535
    fields = tuple(f for f in CHUNK_BANK if f.name == "dy")
    for value in (-16, -1, 15):
        assert unpack_fields(fields, pack_fields(fields, {"dy": value}, "x")) == {"dy": value}
