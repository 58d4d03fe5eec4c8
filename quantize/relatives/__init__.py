"""Relatives of SpikeVideoFormer as float networks with the names of their released checkpoints.

They can be imported and run in torch. Those with a function that folds them are quantised and run on the machine; the
others need operators that it does not have: `spikeloom quantize` refuses by naming the first layer that needs one.
"""

from __future__ import annotations

from .common import Relative, RelativeConfig
from .v1 import SpikeDrivenTransformerV1, V1Config
from .v1_folding import fold_v1
from .v3 import ESpikeFormer, V3Config
from .v3_folding import fold_v3

__all__ = [
    "ESpikeFormer", "Relative", "RelativeConfig", "SpikeDrivenTransformerV1", "V1Config", "V3Config", "fold_v1",
    "fold_v3"]
