"""Benches of the control path: registers, semaphores, sequencer, walker."""

from dataclasses import asdict

import pytest

from spikeloom.config import preset
from spikeloom.hw.gateware.control import ControlRegisters
from spikeloom.hw.gateware.semaphores import Semaphores
from spikeloom.hw.gateware.sequencer import Sequencer
from spikeloom.hw.gateware.supervisor import Supervisor
from spikeloom.hw.gateware.walker import BankAddress, Walker
from spikeloom.sim.cocotb_runner import run_bench


@pytest.mark.parametrize("seed", [1, 2])
def test_walker(seed):
    run_bench(Walker(), "spikeloom.sim.benches.walker", name="walker", seed=seed)


def test_bank_address():
    run_bench(BankAddress(), "spikeloom.sim.benches.bank_address", name="bank_address", seed=3)


def test_semaphores():
    run_bench(Semaphores(4), "spikeloom.sim.benches.semaphores", name="semaphores", parameters={"engines": 4})


def test_semaphores_refuse_one_engine():
    with pytest.raises(ValueError, match="`engines` must be at least 2, not `1`"):
        Semaphores(1)


def test_control():
    config = preset("tiny")
    run_bench(ControlRegisters(config), "spikeloom.sim.benches.control", name="control",
              parameters={"config": asdict(config)})


@pytest.mark.parametrize("name", ["tiny", "small"])
@pytest.mark.parametrize("seed", [1, 2])
def test_sequencer(name, seed):
    config = preset(name)
    run_bench(Sequencer(config), "spikeloom.sim.benches.sequencer", name="sequencer", seed=seed,
              parameters={"config": asdict(config), "base": 0x12_344F_FFC0})


def test_supervisor():
    run_bench(Supervisor(), "spikeloom.sim.benches.supervisor", name="supervisor", seed=4)
