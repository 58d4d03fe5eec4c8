"""Machine configuration: what the generated hardware is built for, and its presets.

The Verilog depends on these parameters only, never on a network. `MachineConfig` is the user's configuration
(frozen, keyword-only); everything that follows from it is a property. Presets are differences from the default.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType

MACHINE_VERSION = 3
"""Version of program format, register map and arithmetic. A program of another version is refused."""

GROUP_INPUTS = 4
"""Inputs that select one entry of a table (16 entries)."""

ACCUMULATOR_BITS = 24
"""Width of an accumulator, signed. The compiler proves that it cannot overflow."""

SCORE_BITS = 12
"""Width of a score of the temporal unit, signed: its heads have at most 2**11 - 1 channels."""


def _power_of_two(value: int) -> bool:
    return value > 0 and value & (value - 1) == 0


@dataclass(frozen=True, kw_only=True)
class MachineConfig:
    """Parameters of one machine.

    A *word* is the unit of storage and transport: `word_channels` x `lanes` spikes of one pixel, bit
    `channel * lanes + lane`. A word is exactly one AXI beat.

    Attributes:
        lanes: Time steps processed side by side (Pt).
        word_channels: Channels in a word (Wc).
        banks: Spike words read per cycle; `banks * word_channels` inputs (Pi) enter the array per cycle.
        output_words: Output words accumulated side by side; Po = `output_words * word_channels`.
        load_groups: Tables (groups of 4 inputs) filled in parallel by the Gray-code loader.
        depthwise_rows: Kernel rows that the depthwise unit takes per cycle (each 7 taps).
        spike_depth: Words per spike bank.
        weight_depth: Rows of the weight buffer; one row is `load_groups * Po` bytes.
        chunk_depth: Chunk headers held on chip.
        parameter_depth: Neuron-parameter rows held on chip; one row serves one output word.
        accumulator_depth: Pixels per accumulator bank (two banks, ping-pong).
        residual_depth: Residual items (one pixel of one word, int16) held on chip.
        line_bytes: Bytes of one pixel row that the packer can hold, per lane.
        axi_ports: AXI4 master ports, 1, 2 or 4.
        adder: First two levels of the adder trees: "dsp" (slices DSP48E2, four 12-bit adders each) or "lut". The sums
            are the same.
        temporal_unit: There is a unit for attention from frame to frame.
        clock_mhz: Clock that figures are quoted at. Not part of the hardware.
    """

    lanes: int = 8
    word_channels: int = 16
    banks: int = 8
    output_words: int = 2
    load_groups: int = 4
    depthwise_rows: int = 8
    spike_depth: int = 4096
    weight_depth: int = 2048
    chunk_depth: int = 1024
    parameter_depth: int = 64
    accumulator_depth: int = 512
    residual_depth: int = 8192
    line_bytes: int = 2048
    axi_ports: int = 4
    adder: str = "dsp"
    temporal_unit: bool = False
    clock_mhz: float = 300.0

    def __post_init__(self) -> None:
        for name in ("lanes", "word_channels", "banks", "output_words", "load_groups", "depthwise_rows"):
            value = getattr(self, name)
            if not _power_of_two(value):
                raise ValueError(f"`{name}` must be a power of two, not `{value!r}`")
        for name in ("spike_depth", "weight_depth", "chunk_depth", "parameter_depth", "accumulator_depth",
                     "residual_depth", "line_bytes"):
            value = getattr(self, name)
            if value < 16 or value % 2:
                raise ValueError(f"`{name}` must be an even number of at least 16, not `{value!r}`")
        if self.lanes > 8:
            raise ValueError(f"`lanes` must be at most 8, not `{self.lanes!r}`")
        if not 32 <= self.beat_bits <= 128:
            raise ValueError(f"`lanes * word_channels` must be 32, 64 or 128, not `{self.beat_bits!r}`")
        if self.banks < 2:
            raise ValueError(f"`banks` must be at least 2, not `{self.banks!r}`")
        if self.word_channels < 8:
            raise ValueError(f"`word_channels` must be at least 8, not `{self.word_channels!r}`")
        if self.depthwise_rows > self.banks:
            raise ValueError(f"`depthwise_rows` must be at most `banks`, not `{self.depthwise_rows!r}`")
        if self.groups % self.load_groups or self.word_channels % (GROUP_INPUTS * self.load_groups):
            raise ValueError(f"`load_groups` must divide the groups of a word, not `{self.load_groups!r}`")
        if self.depthwise_groups % self.load_groups:
            raise ValueError(f"`load_groups` must divide the groups of the depthwise unit, not `{self.load_groups!r}`")
        if self.axi_ports not in (1, 2, 4):
            raise ValueError(f"`axi_ports` must be 1, 2 or 4, not `{self.axi_ports!r}`")
        if not isinstance(self.temporal_unit, bool):
            raise ValueError(f"`temporal_unit` must be True or False, not `{self.temporal_unit!r}`")
        if self.adder not in ("dsp", "lut"):
            raise ValueError(f"`adder` must be \"dsp\" or \"lut\", not `{self.adder!r}`")

    @property
    def inputs(self) -> int:
        """Inputs of the array per cycle and lane (Pi)."""
        return self.banks * self.word_channels

    @property
    def outputs(self) -> int:
        """Outputs of the array per lane (Po)."""
        return self.output_words * self.word_channels

    @property
    def groups(self) -> int:
        """Tables per lane."""
        return self.inputs // GROUP_INPUTS

    @property
    def fill_cycles(self) -> int:
        """Cycles in which all tables of the array are filled: a chunk of fewer pixels waits for it."""
        return (1 << GROUP_INPUTS) * self.groups // self.load_groups

    @property
    def beat_bits(self) -> int:
        """Bits of a word and of an AXI beat."""
        return self.lanes * self.word_channels

    @property
    def beat_bytes(self) -> int:
        return self.beat_bits // 8

    @property
    def peak_ops_per_cycle(self) -> int:
        """Synaptic operations (additions) of the array per cycle: Pi * Po * Pt."""
        return self.inputs * self.outputs * self.lanes

    @property
    def weight_row_bytes(self) -> int:
        """Bytes of one row of the weight buffer."""
        return self.load_groups * self.outputs

    @property
    def chunk_rows(self) -> int:
        """Rows of the weight buffer that one chunk of the array occupies."""
        return self.inputs // self.load_groups

    @property
    def depthwise_groups(self) -> int:
        """Groups of one depthwise chunk: two (taps 0-3, taps 4-6) per kernel row."""
        return 2 * self.depthwise_rows

    @property
    def chunk_header_beats(self) -> int:
        """AXI beats of one chunk header: 32 bits common, 32 bits per bank, padded to whole beats."""
        return -(-32 * (1 + self.banks) // self.beat_bits)

    @property
    def parameter_beats(self) -> int:
        """AXI beats of one neuron-parameter row: three 32-bit values per channel of a word."""
        return self.word_channels * 96 // self.beat_bits

    @property
    def residual_beats(self) -> int:
        """AXI beats of one residual item (int16 per channel and lane of a word)."""
        return 16

    @property
    def raw_beats(self) -> int:
        """AXI beats of one raw item (int32 per channel of a word)."""
        return self.word_channels * 32 // self.beat_bits

    @property
    def hardware(self) -> dict[str, int | str]:
        """The parameters that the hardware depends on."""
        values = asdict(self)
        del values["clock_mhz"]
        return values

    @property
    def hash(self) -> int:
        """32-bit configuration hash, in the registers and in every program."""
        text = json.dumps({"version": MACHINE_VERSION, **self.hardware}, sort_keys=True)
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")


_FLAGSHIP = MachineConfig()

PRESETS: Mapping[str, MachineConfig] = MappingProxyType({
    "zcu104": _FLAGSHIP,
    "zcu104-half": replace(_FLAGSHIP, banks=4, load_groups=2, depthwise_rows=4, spike_depth=8192, temporal_unit=True),
    "small": replace(
        _FLAGSHIP, banks=2, output_words=1, load_groups=1, depthwise_rows=2, spike_depth=8192, chunk_depth=512,
        accumulator_depth=256, residual_depth=512, line_bytes=512, axi_ports=2, temporal_unit=True),
    "tiny": replace(
        _FLAGSHIP, lanes=4, word_channels=8, banks=2, output_words=1, load_groups=1, depthwise_rows=2,
        spike_depth=2048, weight_depth=512, chunk_depth=128, parameter_depth=16, accumulator_depth=64,
        residual_depth=128, line_bytes=256, axi_ports=1, adder="lut",
        temporal_unit=True),
})
"""Named machines: `zcu104` (32,768 synaptic operations per cycle), `zcu104-half`, `small` (demo), `tiny` (tests)."""


def preset(name: str) -> MachineConfig:
    """Return the preset `name`.

    Raises:
        ValueError: No such preset.
    """
    if name not in PRESETS:
        raise ValueError(f"`preset` must be one of {', '.join(sorted(PRESETS))}, not `{name!r}`")
    return PRESETS[name]
