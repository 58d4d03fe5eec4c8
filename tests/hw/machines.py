"""Machines for tests of the compiler: presets, and some whose buffers hold barely enough."""

from dataclasses import replace

from spikeloom.config import MachineConfig, preset

MACHINES = {
    "tiny": preset("tiny"), "small": preset("small"), "zcu104": replace(preset("zcu104"), temporal_unit=True),
    # few lanes, tables filled in parallel, two beats per row of K^T V, odd depths
    "cramped": MachineConfig(
        lanes=4, word_channels=16, banks=4, output_words=2, load_groups=2, depthwise_rows=4, spike_depth=1022,
        weight_depth=64, chunk_depth=16, parameter_depth=16, accumulator_depth=30, residual_depth=34, line_bytes=256,
        temporal_unit=True),
    # many banks: words in several of them; one accumulator word; window rows one by one
    "wide": MachineConfig(
        lanes=8, word_channels=8, banks=8, output_words=1, load_groups=1, depthwise_rows=1, spike_depth=700,
        weight_depth=128, chunk_depth=64, parameter_depth=16, accumulator_depth=50, residual_depth=16,
        line_bytes=512, temporal_unit=True)}
