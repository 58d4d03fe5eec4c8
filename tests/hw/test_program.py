"""Program files: round trip, listing, and a clear error for everything that can be wrong with them."""

import json

import numpy as np
import pytest

from spikeloom.config import preset
from spikeloom.hw.isa import Opcode
from spikeloom.hw.program.compiler import compile_network
from spikeloom.hw.program.errors import ProgramError
from spikeloom.hw.program.interpreter import Interpreter
from spikeloom.hw.program.program import Program


@pytest.fixture(scope="module")
def network(builder):
    made = builder("spikes", 12, 5, 6)
    made.conv(made.conv(channels=20, kernel=3, padding=1), channels=3)
    return made.network


@pytest.fixture(scope="module")
def program(network):
    return compile_network(network, preset("tiny"))


@pytest.fixture
def saved(program, tmp_path):
    program.save(tmp_path)
    return tmp_path


def _edit(directory, **changes):
    path = directory / "program.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_round_trip(program, saved):
    loaded = Program.load(saved, preset("tiny"))
    assert loaded == program
    clip = np.random.default_rng(0).random((4, 12, 5, 6)) < 0.5
    for name in program.tensors:
        assert np.array_equal(Interpreter(loaded, clip).run().tensor(name),
                              Interpreter(program, clip).run().tensor(name))


def test_saved_files_are_the_same_every_time(program, network, saved, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    compile_network(network, preset("tiny")).save(other)
    for name in ("program.bin", "program.json"):
        assert (saved / name).read_bytes() == (other / name).read_bytes()


def test_properties(program, network):
    instructions = program.instructions()
    assert instructions[-1].opcode is Opcode.END
    assert len(instructions) == program.instruction_count == sum(o.instructions for o in program.operators) + 1
    assert program.network_hash == network.hash
    assert program.synaptic_operations == 4 * 30 * (20 * 12 * 9 + 3 * 20)
    assert [o.name for o in program.operators] == ["conv0", "conv1"]
    assert all(p.offset % 64 == 0 for p in program.tensors.values())


def test_listing(program):
    lines = program.listing().splitlines()
    assert lines[0] == "conv0:"
    assert lines[-2] == "end:"
    headings = [line for line in lines if line.endswith(":")]
    assert set(headings) == {"conv0:", "conv1:", "end:"}
    assert len(lines) == program.instruction_count + len(headings)
    compute = next(line for line in lines if " COMPUTE " in line)
    assert "chunks=" in compute
    assert "wait=" in compute


def test_pack_input_checks_the_clip(program):
    with pytest.raises(ValueError, match="`input` must be bool"):
        program.pack_input(np.zeros((4, 12, 5, 5), dtype=np.bool_))


def test_missing(saved):
    (saved / "program.bin").unlink()
    with pytest.raises(ProgramError, match=r"program\.bin: cannot be read"):
        Program.load(saved)


@pytest.mark.parametrize(("text", "message"), [
    ("{", "not JSON"), ("[]", "not a Spikeloom program"), ('{"format": "x"}', "not a Spikeloom program")])
def test_not_a_program(saved, text, message):
    (saved / "program.json").write_text(text)
    with pytest.raises(ProgramError, match=rf"program\.json: {message}"):
        Program.load(saved)


@pytest.mark.parametrize(("changes", "message"), [
    ({"version": 9}, "`version` must be 1, not `9`"),
    ({"machine_version": 7}, "`machine_version` must be"),
    ({"tensors": [{}]}, "malformed"),
    ({"operators": None}, "malformed"),
    ({"config": {"lanes": 3}}, "malformed.*`lanes` must be a power of two"),
    ({"config_hash": 1}, "`config_hash` does not belong to `config`"),
    ({"input": "cheese"}, "input or output is no tensor"),
    ({"workspace_bytes": 0}, "lies outside its region"),
    ({"instructions": 10**6}, "1000000 instructions do not fit"),
    ({"instructions": 3}, "instruction 2 is not END"),
    ({"instructions": 0}, "is not END")])
def test_bad_description(saved, changes, message):
    _edit(saved, **changes)
    with pytest.raises(ProgramError, match=message):
        Program.load(saved)


def test_other_machine(saved):
    with pytest.raises(ProgramError, match="compiled for another machine"):
        Program.load(saved, preset("small"))


def test_truncated(saved):
    path = saved / "program.bin"
    data = path.read_bytes()
    path.write_bytes(data[:-16])
    sizes = f"has {len(data) - 16} bytes, `program.json` says {len(data)}"
    with pytest.raises(ProgramError, match=rf"program\.bin: {sizes}"):
        Program.load(saved)


def test_flipped_bit(saved):
    path = saved / "program.bin"
    data = bytearray(path.read_bytes())
    data[-100] ^= 4
    path.write_bytes(data)
    with pytest.raises(ProgramError, match=r"program\.bin: checksum is"):
        Program.load(saved)


def test_bad_instruction(program, saved):
    """A changed instruction with the right checksum of the file is named."""
    bad = Program(**{**vars(program), "image": program.image[:64] + b"\1" + program.image[65:]})
    bad.save(saved)
    with pytest.raises(ProgramError, match="instruction 1: bad checksum"):
        Program.load(saved)
