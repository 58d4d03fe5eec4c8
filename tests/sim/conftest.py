"""What the tests of the simulated machine share."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from spikeloom.config import preset
from spikeloom.hw.build import emit_machine


@pytest.fixture(scope="session")
def verilog() -> Callable[[str], str]:
    """Emitted Verilog by preset, each emitted once; the Verilated model of it is cached on disk."""
    texts: dict[str, str] = {}

    def get(name: str) -> str:
        if name not in texts:
            texts[name] = emit_machine(preset(name))
        return texts[name]

    return get
