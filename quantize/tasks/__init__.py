"""What a network is trained for: clips with their targets, the loss, and the figures to report.

A :class:`Task` knows nothing of how a network computes. Training asks it for batches and a loss; reports hand it any
function from clips to outputs, be it the float model, the integer network or the machine::

    task = get_task(model.config)
    clips, targets = task.batch(range(32), "train", seed=1)
    report = task.evaluate(predict, n=2000)

========== ============================================  ======================================================
task       targets of a clip                             reported, with 95 % intervals
========== ============================================  ======================================================
digits     ``digit int64``, ``direction int64``          accuracy
walkers    ``joints float32[T, 13, 2]``                  MPJPE, PA-MPJPE (per cent of the frame)
masks      ``classes uint8[T, H, W]``                    mean IoU, part of the pixels in the right class
videos     ``label int64``                               accuracy of the best and of the best five classes
keypoints  ``joints float32[T, J, 2]``, ``seen bool``    as walkers, of joints that are seen
cityscapes ``classes uint8[T, H, W]``, 255: ignored      as masks
========== ============================================  ======================================================

The first three are generated, the others read files.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from torch import Tensor

if TYPE_CHECKING:
    from ..models import SpikeVideoFormer, SpikeVideoFormerConfig
    from ..relatives import Relative, RelativeConfig

__all__ = ["Predict", "Task", "get_task"]

Predict = Callable[[np.ndarray], np.ndarray]
"""``uint8[B, T, H, W, 3]`` clips to what the model's ``forward`` returns for them, in its layout and units."""


class Task(Protocol):
    """A data set, its loss and its metrics, for one size of clip."""

    @property
    def name(self) -> str:
        """Name of the task."""
        ...

    def batch(self, indices: range | list[int], split: str, seed: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Clips ``uint8[B, T, H, W, 3]`` and their targets, batch first; a function of the arguments alone.

        ``split`` is ``"train"``, ``"val"`` (to watch training and to choose settings) or ``"test"`` (to report).
        """
        ...

    def loss(self, model: SpikeVideoFormer | Relative, outputs: Tensor, targets: dict[str, Tensor]) -> Tensor:
        """Scalar to minimise, from what ``model`` made of the clips of a batch."""
        ...

    def evaluate(
        self, predict: Predict, *, n: int = 2000, split: str = "test", seed: int = 0, batch: int = 100
    ) -> dict[str, Any]:
        """Metrics of clips ``0..n-1`` of a split as plain values for JSON, with 95 % intervals.

        Beside the metrics: ``"split"``, ``"seed"``, ``"n"``. Deterministic.
        """
        ...


def get_task(config: SpikeVideoFormerConfig | RelativeConfig, data: str | Path | None = None) -> Task:
    """The task that a network of that configuration is for, by its head.

    Parameters
    ----------
    data : path
        Directory of a data set of files (docs/tasks.md). None: the project's own data.

    Raises
    ------
    ValueError
        If there is no such task, or the files are not laid out as it needs them (`files.DataError`).
    """
    if data is not None:
        from .cityscapes import Cityscapes
        from .keypoints import Keypoints
        from .videos import Videos

        on_files = {"class": Videos, "pose": Keypoints, "segment": Cityscapes}
        return on_files[config.head].of(config, Path(data))
    from .digits import Digits
    from .masks import Masks
    from .walkers import Walkers

    tasks = {"class": Digits, "pose": Walkers, "segment": Masks}
    return tasks[config.head].of(config)
