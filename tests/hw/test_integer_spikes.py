"""Compiler and interpreter against the integer reference: integer spikes, drained threshold by threshold."""

from dataclasses import replace

import pytest

from spikeloom.config import preset
from spikeloom.hw.isa import CHUNK_COMMON, Core, Opcode, Target, unpack_fields
from spikeloom.hw.program.layout import ceil_div
from spikeloom.hw.program.program import Program
from spikeloom.quantize.random_networks import random_network

from .machines import MACHINES


@pytest.mark.parametrize("seed", [300, 301, 303, 54, 89])
def test_integer_spikes(check, seed):
    network = random_network(seed, theme="integers", cycles=30_000)
    assert any(tensor.kind == "integers" for tensor in network.tensors.values())
    for name in ("tiny", "cramped"):
        check(network, MACHINES[name], seed)


def test_integer_spikes_in_pieces(builder, check):
    """Units of a single map; several words of thresholds; pairs of maps of K and V in several COMPUTEs."""
    made = builder("spikes", 20, 6, 8, frames=3)
    first, second = (made.conv(channels=40, levels=levels) for levels in (7, 5))
    attended = made.attend(first, made.keyvalue(first, second, heads=2, bipolar=False), bipolar=False)
    made.conv(attended, channels=9)
    made.depthwise(made.conv(first, channels=40, kernel=3, padding=1, mode="residual", levels=3), kernel=5, padding=2)
    program = check(made.network, replace(MACHINES["cramped"], spike_depth=140), 1)
    chunks = [i.body["chunks"] for i in program.instructions() if i.body.get("core") == Core.HAMMING]
    assert set(chunks) == {8, 35 % 8}
    check(made.network, MACHINES["wide"], 2)


def test_integer_spikes_keep_their_tables(builder, check):
    """The maps of a tensor take turns at each chunk, so tables are filled as often as for binary spikes."""
    fills = []
    for levels in (1, 4):
        made = builder("spikes", 48, 4, 4)
        made.conv(made.conv(channels=48, levels=levels), channels=8, kernel=3, padding=1)
        program = check(made.network, preset("tiny"), 1)
        runs = [i.body for i in program.instructions() if i.opcode is Opcode.COMPUTE and i.layer == 1]
        chunks = sum(body["chunks"] for body in runs)
        assert chunks == levels * 27
        fills.append(_table_fills(program, 1))
    assert fills == [27, 27]


def _table_fills(program: Program, layer: int) -> int:
    """Chunk headers that fill the tables, among those that the operator loads."""
    size, count = program.config.chunk_header_beats * program.config.beat_bytes, 0
    for instruction in program.instructions():
        body = instruction.body
        if instruction.layer == layer and body.get("target") == Target.CHUNKS:
            data = program.image[body["offset"]:body["offset"] + body["beats"] * program.config.beat_bytes]
            words = [int.from_bytes(data[at:at + 4], "little") for at in range(0, len(data), size)]
            count += sum(unpack_fields(CHUNK_COMMON, word)["load"] for word in words)
    return count


@pytest.mark.parametrize(("height", "frames"), [(7, 4), (8, 4), (20, 4), (9, 7)])
def test_integer_spikes_of_a_spatial_sum(builder, check, height, frames):
    """Of a map that is drained at once, or in two or more tiles; with two lane groups."""
    made = builder("spikes", 12, height, 9, frames=frames)
    stream = made.conv(channels=12, kernel=3, padding=1, kind="residual")
    pooled = made.conv(channels=12, mode="residual", pool=True, shortcut=stream, levels=4)
    made.conv(pooled, channels=7, kind="logits")
    program = check(made.network, preset("tiny"), 4)
    sums = [i.body for i in program.instructions() if i.opcode is Opcode.DRAIN and i.body["pool"]]
    groups = 2 * ceil_div(frames, program.config.lanes)  # and two words
    assert sum(body["pool_first"] for body in sums) == groups
    assert sum(body["pool_last"] for body in sums) == 4 * groups
    assert sum(body["pixels"] for body in sums) == (9 * height + 3) * groups
