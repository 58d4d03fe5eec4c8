"""The self-test names the first layer that is wrong, and refuses files that are not the program's."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from spikeloom.config import preset
from spikeloom.host.accelerator import Accelerator
from spikeloom.host.errors import ProgramError
from spikeloom.host.self_test import SelfTest
from spikeloom.hw.isa import Opcode, Target
from spikeloom.hw.program.compiler import compile_network
from spikeloom.network import Conv
from spikeloom.quantize.random_networks import random_network
from spikeloom.sim.board import SimulatedBoard
from spikeloom.sim.self_test import make_self_test

CONFIG = preset("tiny")


@pytest.fixture(scope="module")
def network():
    return random_network(3)


@pytest.fixture(scope="module")
def program(network):
    return compile_network(network, CONFIG)


@pytest.fixture(scope="module")
def test(network, program) -> SelfTest:
    return make_self_test(network, program)


def parameters_of(program, operator: str) -> int:
    """Byte in the image of the first neuron parameters that an operator loads."""
    layer = [info.name for info in program.operators].index(operator)
    return next(i.body["offset"] for i in program.instructions() if i.layer == layer
                and i.opcode is Opcode.LOAD_WEIGHTS and i.body["target"] == Target.PARAMETERS)


def test_first_wrong_layer(network, program, test: SelfTest) -> None:
    """The thresholds of one layer changed in DDR: that layer is named, though all that follow are wrong as well."""
    assert {kind.kind for kind in program.tensors.values()} >= {"spikes", "keyvalue"}
    operators = [o.name for o in network.operators if isinstance(o, Conv)]
    with SimulatedBoard(CONFIG) as board, Accelerator(board, program) as accelerator:
        assert accelerator.self_test(test) is None
        for operator in (operators[0], operators[-1]):
            memory = board.buffers[0].memory
            at = parameters_of(program, operator)
            good = memory[at:at + 8].copy()
            memory[at:at + 8] = np.frombuffer(np.array([0, 0x7FFFFF], "<i4").tobytes(), np.uint8)
            assert accelerator.self_test(test) == operator
            memory[at:at + 8] = good
        assert accelerator.self_test(test) is None


def test_files(program, test: SelfTest, tmp_path: Path) -> None:
    test.save(tmp_path)
    assert SelfTest.load(tmp_path, program) == test


@pytest.mark.parametrize(("damage", "message"), [
    ("truncate", "`input_bytes` must be"), ("flip", "`input_crc` must be"), ("missing", "cannot be read"),
    ("network", "`network_hash` must be"), ("tensor", "no tensors of the program: nothing")])
def test_damaged_files(damage: str, message: str, program, test: SelfTest, tmp_path: Path) -> None:
    test.save(tmp_path)
    content, path = tmp_path / "self_test.bin", tmp_path / "self_test.json"
    data = json.loads(path.read_text())
    if damage == "truncate":
        content.write_bytes(test.input[:-1])
    elif damage == "flip":
        content.write_bytes(bytes([test.input[0] ^ 1, *test.input[1:]]))
    elif damage == "missing":
        content.unlink()
    elif damage == "network":
        data["network_hash"] = "0"
    else:
        data["checksums"].append(["conv", "nothing", 0])
    path.write_text(json.dumps(data))
    with pytest.raises(ProgramError, match=message):
        SelfTest.load(tmp_path, program)
