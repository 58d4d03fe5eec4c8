"""Relatives of SpikeVideoFormer as float networks with the names of their released checkpoints.

They can be imported and run in torch. The integer network and the machine do not have all of their operators: each
module says which ones are missing, and `spikeloom quantize` refuses by naming the first layer that needs one.
"""

from __future__ import annotations

from .common import Relative, RelativeConfig
from .v1 import SpikeDrivenTransformerV1, V1Config
from .v1_folding import fold_v1
from .v3 import ESpikeFormer, V3Config

__all__ = ["ESpikeFormer", "Relative", "RelativeConfig", "SpikeDrivenTransformerV1", "V1Config", "V3Config", "fold_v1"]
