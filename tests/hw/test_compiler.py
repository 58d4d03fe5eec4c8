"""Compiler and interpreter against the integer reference, and what the compiler refuses.

Every program runs in program order and with engines interleaved at random, also on machines whose buffers hold barely
enough.
"""

import subprocess
import sys
import zlib
from dataclasses import replace

import numpy as np
import pytest

from spikeloom.config import MachineConfig, preset
from spikeloom.hw.isa import Engine, Instruction, Opcode
from spikeloom.hw.program import compiler
from spikeloom.hw.program.compiler import compile_network
from spikeloom.hw.program.errors import MappingError
from spikeloom.hw.program.interpreter import Interpreter
from spikeloom.hw.program.layout import Region
from spikeloom.hw.program.memory import InterpreterError
from spikeloom.hw.program.program import Program
from spikeloom.network import Network, NetworkError
from spikeloom.quantize.random_clips import random_clip
from spikeloom.quantize.random_networks import random_network
from spikeloom.quantize.reference import Reference

from .machines import MACHINES


@pytest.mark.parametrize("seed", range(24))
def test_random_networks(check, seed):
    network = random_network(seed)
    for name in ("tiny", "small"):
        check(network, MACHINES[name], seed)


@pytest.mark.parametrize("name", ["zcu104", "cramped", "wide"])
@pytest.mark.parametrize("seed", range(100, 108))
def test_other_machines(check, seed, name):
    check(random_network(seed), MACHINES[name], seed)


@pytest.mark.parametrize("theme", ["pyramid", "frames", "gate", "maximum"])
@pytest.mark.parametrize(("name", "seed"), [
    ("tiny", 0), ("tiny", 24), ("small", 1), ("zcu104", 2), ("cramped", 10), ("cramped", 16), ("wide", 7),
    ("wide", 25)])
def test_further_themes(check, name, seed, theme):
    check(random_network(seed, cycles=30_000, theme=theme), MACHINES[name], seed)


@pytest.mark.parametrize("name", ["tiny", "cramped", "wide"])
def test_enlarged_twice(builder, check, name):
    """Four times as large, read twice; on some machines in pieces of a row. The small map has a reader of its own."""
    made = builder("spikes", 9, 12, 36, frames=5)
    small = made.conv(stride=4, kind="residual")
    made.conv(made.conv(stride=4), kind="residual", shortcut=small)
    wide = made.upsample(made.upsample(small))
    made.conv(mode="residual", shortcut=wide)
    made.conv(kernel=3, padding=1, kind="residual", shortcut=wide)
    program = check(made.network, MACHINES[name], 1)
    loads = [i.body for i in program.instructions() if i.opcode is Opcode.LOAD_SHORTCUT]
    assert any(body["count1"] > 1 and body["stride1"] == 0 for body in loads)
    assert {operator.instructions for operator in program.operators if operator.kind == "upsample"} == {0}


def test_enlarged_output_is_refused(builder):
    made = builder("spikes", 9, 4, 4)
    made.upsample(made.conv(kind="residual"))
    with pytest.raises(MappingError, match="operator upsample1: an enlarged map cannot be the output"):
        compile_network(made.network, preset("tiny"))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(200, 400))
def test_many_random_networks(check, seed):
    network = random_network(seed)
    for config in MACHINES.values():
        check(network, config, seed, interleavings=2)


def test_network_without_arithmetic_in_it(builder):
    """A spike that goes through the whole machine: 1x1, weight 1, threshold 1, no leak."""
    made = builder("spikes", 3, 2, 2)
    made.conv(channels=3)
    arrays = made.network.arrays
    arrays["conv0.weight"][:] = np.eye(3, dtype=np.int8)[:, :, None, None] * 4
    arrays["conv0.bias"][:] = 0
    arrays["conv0.threshold"][:] = 2
    clip = np.random.default_rng(0).random((4, 3, 2, 2)) < 0.5
    made.network.check()
    machine = Interpreter(compile_network(made.network, preset("tiny")), clip).run()
    assert np.array_equal(machine.tensor("conv0.out"), clip)


def test_wide_rows_are_cut(builder, check):
    """A row wider than the accumulators."""
    made = builder("spikes", 9, 4, 150, frames=5)
    made.depthwise(made.conv(channels=10, kernel=3, padding=1, stride=1), kernel=7, padding=2)
    program = check(made.network, preset("tiny"), 0)
    assert all(i.body.get("pixels", 0) <= 64 for i in program.instructions())


def test_input_too_large_for_the_banks(builder, check):
    """Units of a few words, of a single bit-plane and of a few kernel rows."""
    made = builder("spikes", 20, 6, 24, frames=3)
    planes = made.conv(channels=20, kernel=7, padding=3, kind="planes", stride=2)
    made.depthwise(planes, kernel=7, padding=3)
    made.conv(planes, channels=9, kernel=7, padding=3)
    config = replace(preset("tiny"), spike_depth=74)
    program = check(made.network, config, 1)
    assert any(i.body.get("count1", 0) > 1 and i.body["run"] == 1 for i in program.instructions())
    pixels = builder("pixels", 3, 5, 12, frames=5)
    pixels.conv(kernel=7, padding=3, channels=9)
    check(pixels.network, replace(preset("tiny"), spike_depth=400), 2)


def test_padding_beyond_the_kernel(builder, check):
    made = builder("spikes", 5, 4, 3)
    made.conv(channels=9, kernel=1, padding=2)
    made.depthwise("conv0.out", kernel=3, padding=5)
    check(made.network, preset("tiny"), 2)


def test_tensors_meet_in_the_layout_of_heads(builder, check):
    """A shortcut between attention and convolutions: all of them in head layout, the consumers' weights too."""
    made = builder("spikes", 24, 4, 5, frames=9)
    query, key, value = (made.conv(channels=24) for _ in range(3))
    stream = made.conv(channels=24, kernel=3, padding=1, kind="residual")
    matrix = made.keyvalue(key, value, heads=2)
    attended = made.attend(query, matrix)
    made.depthwise(attended)
    made.conv(attended, channels=24, kind="residual", shortcut=stream)
    made.conv(attended, channels=4)
    program = check(made.network, preset("tiny"), 3, interleavings=3)
    groups = {name: place.group for name, place in program.tensors.items()}
    assert groups["attend5.out"] == groups["depthwise6.out"] == 12
    assert groups[stream] == 24


@pytest.mark.parametrize("seed", range(5))
def test_values_wider_than_keys(check, seed):
    check(random_network(seed, theme="wide", cycles=20_000), MACHINES[tuple(MACHINES)[seed]], seed)


def test_integer_values_four_times_as_wide(builder, check):
    """Words of V whose heads share words of K with others: more output tiles than there are words of K."""
    made = builder("spikes", 12, 5, 4, frames=5)
    query, key, value = (made.conv(channels=c, levels=4) for c in (24, 24, 96))
    attended = made.attend(query, made.keyvalue(key, value, heads=2, bipolar=False), bipolar=False)
    made.conv(attended, channels=9)
    for name in ("tiny", "wide"):
        program = check(made.network, MACHINES[name], 1)
    assert {name: program.tensors[name].group for name in (query, key, value, attended)} == {
        query: 12, key: 12, value: 96, attended: 96}


def test_a_spatial_sum_over_several_tiles(builder, check):
    """Whoever reads the sum must wait for the last tile, though the sum is its row 0."""
    made = builder("spikes", 12, 16, 9)
    stream = made.conv(channels=12, kernel=3, padding=1, kind="residual")
    pooled = made.conv(channels=12, mode="residual", pool=True, shortcut=stream)
    made.conv(pooled, channels=7, kind="logits")
    assert 2 * preset("tiny").accumulator_depth < 16 * 9
    check(made.network, preset("tiny"), 4)


def test_planes_of_two_pairs_do_not_fit_the_banks_together(builder, check):
    """The second pair would begin in the midst of a tile of the first: the tiles come one after the other."""
    made = builder("spikes", 40, 32, 8)
    first = made.conv(made.depthwise(kind="planes"), channels=40)
    made.conv(made.depthwise(first, kind="planes"), channels=8)
    with pytest.raises(MappingError, match="spike banks"):
        compiler._compile(made.network, preset("tiny"), observe=False, apart=False)
    program = check(made.network, preset("tiny"), 6)
    assert any(i.body["local"] for i in program.instructions() if i.opcode is Opcode.DRAIN)


def test_accumulators_too_large_for_a_spatial_sum(builder):
    """They must vanish when they are shifted as far as the machine can."""
    made = builder("spikes", 700, 7, 7)
    made.conv(channels=3, kernel=7, padding=3, mode="residual", pool=True, levels=2)
    made.network.arrays["conv0.weight"][:] = 127
    TestRefusals.refuses(made.network, "^operator conv0: integer spikes of a spatial sum need accumulators below "
                                       "4194304, these reach 4356100$")


def test_two_clips_one_after_the_other(builder):
    """K^T V of the clip before lies in the program region and must not matter."""
    made = builder("spikes", 24, 4, 5)
    made.attend("input", made.keyvalue(heads=2))
    program = compile_network(made.network, preset("tiny"))
    clips = [random_clip(made.network, seed) for seed in (1, 2)]
    first = Interpreter(program, clips[0]).run()
    again = Program(**{**vars(program), "image": first.regions[Region.PROGRAM].data.tobytes()})
    assert again.image != program.image
    machine = Interpreter(again, clips[1]).run()
    assert np.array_equal(machine.tensor("attend1.out"), Reference(made.network).run(clips[1])["attend1.out"])


def test_same_bytes_in_another_process():
    code = ("from spikeloom.config import preset; from spikeloom.hw.program.compiler import compile_network;"
            "from spikeloom.quantize.random_networks import random_network; import zlib;"
            "print(zlib.crc32(compile_network(random_network(3), preset('tiny')).image))")
    other = subprocess.run([sys.executable, "-c", code], env={"PYTHONHASHSEED": "77"}, capture_output=True, text=True,
                           check=True)
    assert int(other.stdout) == zlib.crc32(compile_network(random_network(3), preset("tiny")).image)


def _without(program: Program, producer: Engine, consumer: Engine) -> Program:
    """The program without the tokens of one semaphore."""
    image = bytearray(program.image)
    for index, instruction in enumerate(program.instructions()):
        wait, signal = instruction.wait, instruction.signal
        if instruction.engine is producer:
            signal -= {consumer}
        if instruction.engine is consumer:
            wait -= {producer}
        changed = Instruction(opcode=instruction.opcode, layer=instruction.layer, wait=wait, signal=signal,
                              body=instruction.body)
        image[64 * index:64 * index + 64] = changed.encode()
    return Program(**{**vars(program), "image": bytes(image)})


def test_every_semaphore_is_needed(builder):
    """The random interleavings find the lack of any semaphore: they are a test of the tokens."""
    subjects = [_Subject(random_network(3), MACHINES["cramped"])]
    for height in (8, 4):
        made = builder("spikes", 24, height, height - 1, frames=4)
        stream = made.conv(channels=24, kernel=3, padding=1, kind="residual")
        spikes = made.conv(channels=24, kernel=3, padding=1, mode="residual", shortcut=stream)
        made.attend(spikes, made.keyvalue(spikes, spikes, heads=2))
        subjects.append(_Subject(made.network, replace(MACHINES["cramped"], spike_depth=64)))
    pairs = {pair for subject in subjects for pair in subject.pairs}
    # END waits for all engines; that the stores are done tells the most
    pairs -= {(p, Engine.SEQUENCER) for p in Engine if p is not Engine.STORE}
    assert len(pairs) > 12
    for pair in sorted(pairs):
        assert any(subject.fails_without(pair, seed) for seed in range(50) for subject in subjects), pair


class _Subject:
    """A program that is run without some of its tokens."""

    def __init__(self, network: Network, config: MachineConfig) -> None:
        self._clip = random_clip(network, 3)
        self._program = compile_network(network, config)
        self._expected = Reference(network).run(self._clip)
        self.pairs = {(p, i.engine) for i in self._program.instructions() for p in i.wait}

    def fails_without(self, pair: tuple[Engine, Engine], seed: int) -> bool:
        """Whether the lack of a semaphore shows."""
        if pair not in self.pairs:
            return False
        try:
            machine = Interpreter(_without(self._program, *pair), self._clip, np.random.default_rng(seed)).run()
            return any(not np.array_equal(machine.tensor(n), t.numpy()) for n, t in self._expected.items())
        except InterpreterError:
            return True


class TestRefusals:
    """The machine's limits, each with the operator's name and the reason."""

    @staticmethod
    def refuses(network: Network, message: str, config: MachineConfig | None = None) -> None:
        with pytest.raises(MappingError, match=message):
            compile_network(network, config or preset("tiny"))

    def test_row_of_pixels(self, builder):
        made = builder("pixels", 3, 3, 86)
        made.conv()
        self.refuses(made.network, r"^operator conv0: a row of 258 bytes is wider than the line buffer \(256 bytes\)$")

    def test_row_of_spikes(self, builder):
        made = builder("spikes", 3, 2, 1600)
        made.conv(channels=2)
        self.refuses(made.network, "^operator conv0: the input of a single output row takes 1600 words of a spike "
                                   "bank, half a bank has 1024$")

    def test_row_of_keys(self, builder):
        made = builder("spikes", 3, 1, 1025)
        made.keyvalue()
        made.attend("input", "keyvalue0.out")
        self.refuses(made.network, "^operator keyvalue0: a row of 1025 words does not fit half of a spike bank")

    def test_kernel_out_of_reach(self, builder):
        made = builder("spikes", 3, 20, 20)
        made.conv(kernel=17)
        self.refuses(made.network, "^operator conv0: chunk header: `dx` must fit 5 bits, not `16`$")

    def test_two_widths_of_heads(self, builder):
        made = builder("spikes", 60, 3, 3)
        made.keyvalue(heads=5)
        made.keyvalue(heads=3)
        made.attend("input", "keyvalue0.out")
        self.refuses(made.network, "^operator keyvalue1: tensor input is laid out in groups of 12 channels for "
                                   "keyvalue0 already, not of 20$")

    def test_keyvalue_as_output(self, builder):
        made = builder("spikes", 8, 3, 3)
        made.keyvalue()
        self.refuses(made.network, r"^operator keyvalue0: K\^T V cannot be the output of a network$")

    def test_words_wider_than_the_mask(self, builder):
        made = builder("spikes", 8, 3, 3)
        made.keyvalue()
        made.attend("input", "keyvalue0.out")
        self.refuses(made.network, "^operator keyvalue0: the mask of the Hamming unit has 16 bits",
                     MachineConfig(lanes=4, word_channels=32))

    def test_overflow(self, builder):
        made = builder("spikes", 8, 65, 64)
        made.conv()
        made.network.arrays["conv0.bias"][3] = 1 << 25
        with pytest.raises(NetworkError, match=r"^operator conv0: a = acc \+ bias of channel 3 may reach"):
            compile_network(made.network, preset("tiny"))

    def test_thresholds(self, builder):
        made = builder("spikes", 8, 3, 3)
        made.conv(levels=5)
        self.refuses(made.network, r"^operator conv0: 5 thresholds of 4 words do not fit the parameter buffer \(16 r",
                     MachineConfig(lanes=4, word_channels=8, load_groups=2, output_words=4, parameter_depth=16))

    def test_parameters(self, builder):
        made = builder("spikes", 8, 3, 3)
        made.conv()
        self.refuses(made.network, "`parameter_depth` must be at least `output_words`, not `16`",
                     MachineConfig(lanes=4, word_channels=8, load_groups=2, output_words=32, parameter_depth=16))
