"""MaxConv: the maximum by differences that saturate, and its lowering on maps and machines of all kinds."""

from dataclasses import replace

import numpy as np
import pytest

from spikeloom.arithmetic import SHIFT_MIN, round_shift, saturate
from spikeloom.bounds import prove_bounds, raise_by
from spikeloom.config import MachineConfig, preset
from spikeloom.hw.isa import Opcode
from spikeloom.hw.program.compiler import compile_network
from spikeloom.hw.program.errors import MappingError
from spikeloom.hw.program.interpreter import Interpreter
from spikeloom.network import Network, NetworkError
from spikeloom.quantize.random_clips import random_clip
from spikeloom.quantize.reference import Reference

NARROW = MachineConfig(
    lanes=4, word_channels=16, banks=4, output_words=2, load_groups=2, depthwise_rows=4, spike_depth=1022,
    weight_depth=64, chunk_depth=16, parameter_depth=16, accumulator_depth=30, residual_depth=34, line_bytes=256)
"""Nothing fits: residuals go through DDR in pieces of a row, tiles are single rows."""


def agree(network: Network, config: MachineConfig, *, observe: bool = False, seed: int = 0) -> dict[str, np.ndarray]:
    """Compile, run with engines interleaved at random, compare; the reference's tensors."""
    clip = random_clip(network, seed)
    expected = {name: tensor.numpy() for name, tensor in Reference(network).run(clip).items()}
    program = compile_network(network, config, observe=observe)
    machine = Interpreter(program, clip, np.random.default_rng(seed)).run()
    for name, tensor in expected.items():
        if program.tensors[name].stored:
            assert np.array_equal(machine.tensor(name), tensor), name
    return expected


@pytest.mark.parametrize("shift", range(SHIFT_MIN, 10))
def test_a_maximum_is_two_sums_that_saturate(shift):
    rng = np.random.default_rng(shift - SHIFT_MIN)
    m = rng.integers(-1 << 15, 1 << 15, 20_000)
    m[:4] = -1 << 15, (1 << 15) - 1, -1 << 15, (1 << 15) - 1
    a = np.round(rng.uniform(-1, 1, 20_000) * 2.0 ** (14.9 + shift)).astype(np.int64)
    a[4:1000] = np.round(np.ldexp(m[4:1000] + rng.integers(-2, 3, 996) / 2, shift)).astype(np.int64)  # near m, halves
    x = round_shift(a, shift)
    keep = x >= -1 << 15
    raised = raise_by(np.array(shift))
    difference = saturate(round_shift(-a - (shift > 0) - raised, shift) + m, 16)
    made = saturate(round_shift(a + raised, shift) + difference, 16)
    assert np.array_equal(made[keep], saturate(np.maximum(m, x), 16)[keep])
    assert keep.sum() > 10_000
    assert (m[keep] > x[keep]).mean() == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("config", [preset("tiny"), preset("small"), NARROW], ids=["tiny", "small", "narrow"])
@pytest.mark.parametrize(("height", "width", "fields"), [
    (8, 12, {}), (7, 9, {}), (1, 5, {}), (9, 6, {"window": 2, "window_padding": 0}), (6, 5, {"window_stride": 1}),
    (11, 13, {"stride": 2, "kernel": 5, "padding": 2}), (9, 40, {"kernel": 1, "padding": 0, "window_stride": 3})])
def test_windows(builder, config, height, width, fields):
    """Even and odd maps; rows longer than the accumulators of some; the stream goes on behind it."""
    made = builder("spikes", 20, height, width, frames=5)
    spikes, residual = made.maximum(channels=40, **fields)
    made.conv(spikes, channels=40, kernel=3, padding=1, kind="residual", shortcut=residual)
    expected = agree(made.network, config)
    assert (expected[residual] < 0).mean() > 0.02
    assert 0.05 < expected[spikes].mean() < 0.95


@pytest.mark.parametrize("kind", ["planes", "integers"])
def test_of_other_values(builder, kind):
    made = builder("spikes", 20, 8, 8, frames=5)
    if kind == "planes":
        source = made.depthwise(kind="planes")
    else:
        source = made.conv(levels=3)
    made.maximum(source)
    made.network.arrays["maximum1.shift"] += 4
    agree(made.network, preset("tiny"))
    agree(made.network, NARROW, observe=True)


def test_planes_are_not_handed_over(builder):
    """A depthwise convolution and the 1 x 1 behind it are made as one; not if that has a maximum behind it."""
    made = builder("spikes", 20, 8, 8, frames=5)
    made.maximum(made.depthwise(kind="planes"), kernel=1, padding=0)
    made.network.arrays["maximum1.shift"] += 4
    agree(made.network, preset("tiny"))


def test_a_stream_too_wide_for_a_window(builder):
    """Among convolutions this stream would be made in bands of columns; a maximum makes whole rows."""
    made = builder("spikes", 12, 18, 40, frames=11)
    spikes, residual = made.maximum(channels=12)
    made.conv(spikes, channels=12, kernel=3, padding=1, mode="residual", shortcut=residual)
    made.conv(channels=3)
    agree(made.network, replace(preset("tiny"), residual_depth=844))


def test_nothing_but_drains(builder):
    """Nine places of a window: nine COMPUTEs and one that adds nothing; two DRAINs of a place but the first."""
    made = builder("spikes", 8, 8, 8, frames=2)
    made.maximum()
    program = compile_network(made.network, preset("tiny"))
    opcodes = [i.opcode for i in program.instructions()]
    assert opcodes.count(Opcode.COMPUTE) == 10
    # 4 x 4 windows: places above them leave out a row, those to the left go row by row
    assert opcodes.count(Opcode.DRAIN) == 1 + 2 * (5 + 3 + 4 + 4) + 1
    assert opcodes.count(Opcode.STORE_RESIDUAL) == 0


def test_values_below_the_least_residual_are_refused(builder):
    made = builder("spikes", 16, 4, 4)
    made.maximum()
    operator = made.network.operators[0]
    made.network.arrays[operator.neuron.shift][:] = -8
    with pytest.raises(NetworkError, match="operator maximum0: maximum of values whose least of channel 0 may reach"):
        prove_bounds(made.network)
    made.network.arrays[operator.neuron.shift][:] = 11
    with pytest.raises(NetworkError, match=r"operator maximum0: a of a maximum of channel 0 .* beyond 26 bits"):
        prove_bounds(made.network)


@pytest.mark.parametrize(("change", "message"), [
    ({"window_padding": 2}, "no windows of 3, stride 2 and padding 2"), ({"window": 0}, "no windows of 0"),
    ({"window": 9}, "the output has no pixels"),
    ({"window_stride": 1}, r"output maximum0.out must be spikes \[8, 3, 3\]")])
def test_refused_windows(builder, change, message):
    made = builder("spikes", 16, 3, 3)
    made.maximum()
    made.network.operators[0] = replace(made.network.operators[0], **change)
    with pytest.raises(NetworkError, match=f"operator maximum0: {message}"):
        made.network.check()


def test_refused_stages(builder, tmp_path):
    made = builder("spikes", 16, 4, 4)
    made.maximum()
    made.network.save(tmp_path)
    assert Network.load(tmp_path).operators == made.network.operators
    operator = made.network.operators[0]
    for fields in ({"residual": None}, {"pool": True}, {"shortcut": "maximum0.r"}, {"negate": operator.neuron.shift}):
        made.network.operators[0] = replace(operator, neuron=replace(operator.neuron, **fields))
        with pytest.raises(NetworkError, match="maximum"):
            made.network.check()


def test_a_row_that_does_not_fit_is_refused(builder):
    made = builder("spikes", 16, 4, 60)
    made.maximum()
    with pytest.raises(MappingError, match="operator maximum0: the input of a single output row takes 240 words"):
        compile_network(made.network, replace(NARROW, spike_depth=256))
