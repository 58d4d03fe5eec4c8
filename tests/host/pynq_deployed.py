"""Runs under a Python with pynq and the wheels of a deployment (test_deploy.py), in the unpacked deployment.

    python pynq_deployed.py BUILD      directory that `spikeloom build` wrote: its machine is simulated

Prints one JSON object: name of a check -> "" or its traceback.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import runpy
import sys
import traceback
from pathlib import Path

import nbformat  # pyright: ignore[reportMissingImports]
import numpy as np
from nbclient import NotebookClient  # pyright: ignore[reportMissingImports]
from pynq import Overlay  # pyright: ignore[reportMissingImports]
from pynqutils.setup_utils import ExtensionsManager  # pyright: ignore[reportMissingImports]

sys.path.insert(0, str(Path(__file__).parent))

from pynq_board import attach  # pyright: ignore[reportMissingImports]

BUILD = Path(sys.argv[1])
BOARD = attach(BUILD)


def validate() -> tuple[int | str | None, str]:
    """Exit status and output of the script in the zip."""
    out, arguments, sys.argv = io.StringIO(), sys.argv, ["validate.py", "--timeout", "60"]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            runpy.run_path("validate.py", run_name="__main__")
    except SystemExit as leaving:
        return leaving.code, out.getvalue()
    finally:
        sys.argv = arguments
    raise AssertionError("does not exit")


def validates() -> None:
    status, text = validate()
    assert status == 0, text
    assert text.splitlines()[-1] == "OK", text


def names_a_changed_file() -> None:
    path = Path("program/program.bin")
    good = path.read_bytes()
    for bad in (good[:-1], bytes([good[0] ^ 1]) + good[1:]):
        path.write_bytes(bad)
        try:
            status, text = validate()
        finally:
            path.write_bytes(good)
        assert status == 1, text
        assert "program.bin: changed or truncated" in text, text
    assert validate()[0] == 0


def names_the_first_wrong_layer() -> None:
    """The machine gets other bits than the driver wrote: weights of the last layer are changed on their way to DDR."""
    from spikeloom.hw.isa import Opcode
    from spikeloom.hw.program.program import Program
    from spikeloom.sim.board import SimulatedBuffer

    program = Program.load("program")
    loads = [i for i in program.instructions() if i.opcode is Opcode.LOAD_WEIGHTS]
    at = loads[-1].body["offset"]
    flush = SimulatedBuffer.flush

    def corrupt(self: SimulatedBuffer) -> None:
        flush(self)
        if len(self.array) >= len(program.image) and self.array[:64].tobytes() == program.image[:64]:
            self.memory[at:at + 64] ^= 0x55

    SimulatedBuffer.flush = corrupt
    try:
        status, text = validate()
    finally:
        SimulatedBuffer.flush = flush
    assert status == 1, text
    assert "first wrong layer: " in text, text
    assert "state: " in text, text


def says_that_another_process_has_the_board() -> None:
    from spikeloom.host.driver import SpikeloomOverlay

    with SpikeloomOverlay("bitfile/spikeloom.bit"):
        status, text = validate()
    assert status == 1, text
    assert "is used by process" in text, text


def overlay_is_found_by_name() -> None:
    """Through the entry points: bitstream by `pynq.overlays`, driver by `pynq.lib`."""
    os.chdir("/")
    try:
        overlay = Overlay("spikeloom.bit")
        assert os.environ["SPIKELOOM_WHEEL_FOLDER"] in overlay.bitfile_name
        from spikeloom.host.deployment import Deployment
        samples = Deployment.find().samples()
        overlay.spikeloom_0.load(Deployment.find().program, timeout=60.0)
        np.testing.assert_array_equal(overlay.spikeloom_0.infer(samples.clips[0]), samples.logits[0])
        overlay.spikeloom_0.close()
    finally:
        os.chdir(HERE)


def notebook_is_listed() -> None:
    notebooks = ExtensionsManager("pynq.notebooks")
    (path,) = [notebooks.extension_path(e.module_name) for e in notebooks.list if e.module_name.startswith("spikeloom")]
    assert (Path(path) / "spikeloom.ipynb").read_bytes() == Path("spikeloom.ipynb").read_bytes()


def notebook_runs() -> None:
    """In a kernel of its own; only the board is put under it."""
    startup = HERE / "ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "00-board.py").write_text(
        f"import sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\nfrom pathlib import Path\n"
        f"from pynq_board import attach\nattach(Path({str(BUILD)!r}))\n")
    os.environ["IPYTHONDIR"] = str(startup.parents[1])
    notebook = nbformat.read("spikeloom.ipynb", as_version=4)
    NotebookClient(
        notebook, timeout=300, startup_timeout=300, resources={"metadata": {"path": str(HERE)}}).execute()
    printed = "".join(output.text for cell in notebook.cells for output in cell.get("outputs", ())
                      if output.output_type == "stream" and output.name == "stdout")
    for words in ("operators, ", "state: idle", "all equal to the reference", "all layers right"):
        assert words in printed, printed
    pictures = [output for cell in notebook.cells for output in cell.get("outputs", ())
                if "image/png" in output.get("data", {})]
    assert pictures, "no plot"


HERE = Path.cwd()
CHECKS = (
    validates, names_a_changed_file, names_the_first_wrong_layer, says_that_another_process_has_the_board,
    overlay_is_found_by_name, notebook_is_listed, notebook_runs)


def main() -> None:
    results = {}
    for check in CHECKS:
        try:
            check()
            results[check.__name__] = ""
        except BaseException:
            results[check.__name__] = traceback.format_exc()
    print(json.dumps(results))


if __name__ == "__main__":
    main()
