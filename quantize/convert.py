"""Trained model -> network directory: `network.json`, `network.safetensors`, `quantize_report.json`.

A model is named (`digits`: the trained demo network of the zoo) or a path `MODEL.safetensors` with the configuration
`MODEL.json` beside it, as `spikeloom train` writes them. Calibration clips come from the caller, from
video files, or from the training split of the network's task.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .model_files import load_formats
from .models import SpikeVideoFormer, SpikeVideoFormerConfig
from .quantizer import quantize as quantize_model
from .relatives import Relative, RelativeConfig
from .repconv import unfused_repconvs
from .report import QuantizationReport

__all__ = ["ModelError", "ZOO", "calibration_clips", "load_any", "load_model", "quantize"]

ZOO = Path(__file__).parent / "zoo"
CALIBRATION_CLIPS = 32


class ModelError(ValueError):
    """A model that cannot be loaded: the message names the file and says what is wrong."""


def quantize(
    model: str | Path | SpikeVideoFormer | Relative, out: str | Path, *, clips: NDArray[np.uint8] | None = None,
    videos: Sequence[str | Path] = (), count: int = CALIBRATION_CLIPS,
    weight_bits: int | None = None, repconv: str | Path | Collection[str] = "fused",
    progress: Callable[[str], None] | None = None,
) -> QuantizationReport:
    """Quantise a model and write its network directory.

    Args:
        model: Name in the zoo, path of a `.safetensors` file with its `.json` beside it, or the model itself.
        out: Directory to write to.
        clips: Calibration clips, uint8[B, T, H, W, 3].
        videos: Video files to calibrate on, one clip each, if no clips are given.
        count: Clips to draw of the moving digits, if neither is given.
        weight_bits: Bits of a weight, 2 to 8. None: those that a file's model was trained with, else 8. Number formats
            that it was trained with are kept.
        repconv: `fused`: every RepConv becomes one dense 3x3 convolution; `unfused`: each stays three; else the names
            of those that stay three, or the JSON file with them that `RepConvChoice.save` wrote.
        progress: Hears one line per step.

    Returns:
        The quantiser's report, as written to `quantize_report.json`.

    Raises:
        ModelError: The model cannot be loaded, or no calibration clips fit it.
        VideoError: A video cannot be read.
        NetworkError: The integer network could overflow.
        ValueError: `repconv` is none of these, or the model's number formats are those of fused RepConvs.
    """
    tell = progress or (lambda message: None)
    given = isinstance(model, (SpikeVideoFormer, Relative))
    loaded = model if given else load_any(model)
    if clips is None:
        tell("prepare calibration clips")
        clips = calibration_clips(loaded.config, videos, count)
    tell(f"calibrate on {len(clips)} clips and quantise")
    formats = None if given else load_formats(_path(model))
    unfused = unfused_repconvs(repconv, loaded.config)
    if formats is not None and unfused:
        raise ValueError(f"`repconv` must be fused: {model} was trained with the number formats of fused RepConvs")
    if weight_bits is None:
        weight_bits = formats.weight_bits if formats is not None else 8
    network, report = quantize_model(loaded, clips, formats=formats, weight_bits=weight_bits, unfused=unfused)
    network.save(out)
    report.save(out)
    return report


def load_model(model: str | Path) -> SpikeVideoFormer:
    """The trained SpikeVideoFormer `model`, in evaluation mode. Raises ModelError as `load_any`, or for another one."""
    loaded = load_any(model)
    if not isinstance(loaded, SpikeVideoFormer):
        raise ModelError(f"{_path(model)}.safetensors: must be a SpikeVideoFormer, not `{type(loaded).__name__}`")
    return loaded


def load_any(model: str | Path) -> SpikeVideoFormer | Relative:
    """The trained model `model` of a family that has an integer network, in evaluation mode.

    Raises:
        ModelError: There is no such model, its files do not fit each other, or its family runs in torch only.
    """
    from safetensors import SafetensorError

    from .checkpoints.importing import check_integer_form, load_imported

    path = _path(model)
    try:
        check_integer_form(path)
        loaded = load_imported(path)
    except (SafetensorError, RuntimeError, KeyError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else repr(error)
        raise ModelError(f"{path.with_suffix('.safetensors')}: cannot load the model: {reason}") from error
    assert isinstance(loaded, (SpikeVideoFormer, Relative))
    return loaded


def _path(model: str | Path) -> Path:
    """Path without suffix of both files of a model."""
    path = Path(model)
    if path.suffix != ".safetensors":
        path = ZOO / f"{model}.safetensors"
        if not path.is_file():
            names = sorted(found.stem for found in ZOO.glob("*.safetensors"))
            raise ModelError(f"no trained model `{model}`: name one of {', '.join(names)}, or a .safetensors file")
    for needed in (path, path.with_suffix(".json")):
        if not needed.is_file():
            raise ModelError(f"{needed}: no such file")
    return path.with_suffix("")


def calibration_clips(
    config: SpikeVideoFormerConfig | RelativeConfig, videos: Sequence[str | Path] = (), count: int = CALIBRATION_CLIPS
) -> NDArray[np.uint8]:
    """Clips to calibrate on, uint8[B, T, H, W, 3]: one per video, or of the task's training split.

    Raises:
        ModelError: No video is given and the network is not one for a task of the project's.
        VideoError: A video cannot be read.
    """
    from .tasks import get_task
    from .video import read_clip

    if videos:
        return np.stack([
            read_clip(video, frames=config.frames, height=config.height, width=config.width) for video in videos])
    try:
        task = get_task(config)
    except ValueError as error:
        raise ModelError(
            f"no calibration clips: name video files with --calibrate (no task's own clips fit: {error})") from error
    return task.batch(range(count), "train", 0)[0]
