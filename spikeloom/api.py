"""The commands as Python functions: same names, same arguments, same files written, nothing printed.

    from spikeloom import api

    api.quantize("digits", "build/digits")
    api.build("build/digits", preset="small", out="build/machine")
    result = api.simulate("build/machine", random=1, every_layer=True)
    assert result.mismatches == 0

`choose_repconv` is what the option `--repconv auto` of several commands asks: its `unfused` is their `repconv`.

The functions live where their work is done (torch, Amaranth and the simulator stay out of this package) and are
imported when first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spikeloom.host.measure import measure
    from spikeloom.host.pipeline_run import run
    from spikeloom.hw.build import build
    from spikeloom.hw.deploy import deploy
    from spikeloom.hw.synth.estimate import synth
    from spikeloom.hw.vivado.flow import bitstream, vivado
    from spikeloom.quantize.checkpoints import import_checkpoint
    from spikeloom.quantize.convert import quantize
    from spikeloom.quantize.training import train
    from spikeloom.sim.demo import demo
    from spikeloom.sim.estimate import estimate
    from spikeloom.sim.repconv import choose_repconv
    from spikeloom.sim.simulate import simulate

__all__ = ["bitstream", "build", "choose_repconv", "demo", "deploy", "estimate", "import_checkpoint", "measure",
           "quantize", "run", "simulate", "synth", "train", "vivado"]

_HOMES = {
    "import_checkpoint": "spikeloom.quantize.checkpoints",
    "quantize": "spikeloom.quantize.convert",
    "train": "spikeloom.quantize.training",
    "build": "spikeloom.hw.build",
    "simulate": "spikeloom.sim.simulate",
    "demo": "spikeloom.sim.demo",
    "run": "spikeloom.host.pipeline_run",
    "measure": "spikeloom.host.measure",
    "estimate": "spikeloom.sim.estimate",
    "choose_repconv": "spikeloom.sim.repconv",
    "synth": "spikeloom.hw.synth.estimate",
    "vivado": "spikeloom.hw.vivado.flow",
    "bitstream": "spikeloom.hw.vivado.flow",
    "deploy": "spikeloom.hw.deploy",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
