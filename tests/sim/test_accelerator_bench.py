"""The `tiny` machine under cocotb with cocotbext-axi's memory: independent of our own C++ harness."""

import numpy as np

from spikeloom.config import preset
from spikeloom.hw.gateware.accelerator import Accelerator
from spikeloom.hw.program.compiler import compile_network
from spikeloom.quantize.random_clips import random_clip
from spikeloom.quantize.random_networks import random_network
from spikeloom.quantize.reference import Reference
from spikeloom.registers import REGION_NAMES
from spikeloom.sim.cocotb_runner import run_bench
from spikeloom.sim.compare import Comparison
from spikeloom.sim.machine import region_bases


def test_tiny_machine_runs_a_clip(tmp_path):
    config, network = preset("tiny"), random_network(2, cycles=4_000)
    program, clip = compile_network(network, config), random_clip(network, 1)
    bases, end = region_bases(program)
    memory = np.zeros(end, np.uint8)
    for region, data in (("program", program.image), ("input", program.pack_input(clip))):
        memory[bases[region]:bases[region] + len(data)] = np.frombuffer(data, np.uint8)
    (tmp_path / "memory.bin").write_bytes(memory.tobytes())
    run_bench(Accelerator(config), "spikeloom.sim.benches.accelerator", name="spikeloom", parameters={
        "folder": str(tmp_path), "bases": bases, "stall": 0.2, "max_cycles": 300_000})
    after = (tmp_path / "after.bin").read_bytes()

    def read(region: int, offset: int, size: int) -> bytes:
        base = bases[REGION_NAMES[region]] + offset
        return after[base:base + size]

    expected = {name: tensor.numpy() for name, tensor in Reference(network).run(clip).items()}
    comparison = Comparison(network, on_chip=program.on_chip)
    comparison.add(expected, {name: program.read_tensor(read, name) for name in comparison.tensors})
    assert comparison.mismatches == 0, comparison.summary()
