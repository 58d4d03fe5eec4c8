"""Checkpoints from outside: read without running code, recognised, checked name by name, written as models.

    reading        file -> tensors by name               refuses pickled code, damaged and foreign files
    architectures  names and shapes -> configuration     SpikeVideoFormer, Meta-SpikeFormer (V2), V1, V3
    fitting        tensors -> state_dict                 names all that is missing, left over, misshaped, not finite
    importing      all of it, and the model's files      `spikeloom import`
    against        our float model against the original  `spikeloom import --check`
"""

from __future__ import annotations

from .architectures import ARCHITECTURES
from .importing import ImportedModel, ImportOptions, import_checkpoint, import_model, load_imported
from .reading import Checkpoint, CheckpointError, read_checkpoint

__all__ = [
    "ARCHITECTURES", "Checkpoint", "CheckpointError", "ImportOptions", "ImportedModel", "import_checkpoint",
    "import_model", "load_imported", "read_checkpoint"]
