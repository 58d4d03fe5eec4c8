"""What a network says of every frame or pixel: joints of poses, classes of pixels.

`network.json` says which head a network has and the value of a step of its output; without it the output means nothing
here, and is handed on as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["FrameOutput", "describe_frames"]


@dataclass(frozen=True, kw_only=True)
class FrameOutput:
    """Meaning of an output `int16[T, C, H, W]`.

    Attributes:
        head: `pose`, `segment`, or empty if nothing is known.
        scale: Real value of a step.
        names: Of the classes of pixels; their numbers if there are none.
    """

    head: str = ""
    scale: float = 1.0
    names: Sequence[str] = ()

    @classmethod
    def of(cls, metadata: Mapping[str, Any]) -> FrameOutput:
        """From the metadata of a network."""
        head = (metadata.get("model") or {}).get("head", "")
        scale = (metadata.get("output") or {}).get("scale")
        if head not in ("pose", "segment") or scale is None:
            return cls()
        return cls(head=head, scale=float(scale), names=tuple(metadata.get("class_names") or ()))

    def read(self, values: NDArray[Any]) -> dict[str, Any]:
        """Plain values of an output: `joints` [T][J][x, y] over the frame's size; `pixels` [T]{class: count}."""
        if self.head == "pose":
            joints = np.asarray(values, np.float64).reshape(len(values), -1, 2) * self.scale
            return {"joints": joints.tolist()}
        if self.head == "segment":
            classes = np.asarray(values).argmax(axis=1)
            names = self.names or [str(i) for i in range(values.shape[1])]
            return {"pixels": [{name: int((frame == i).sum()) for i, name in enumerate(names)} for frame in classes]}
        return {}


def describe_frames(read: Mapping[str, Any]) -> str:
    """A line for people of what `FrameOutput.read` gives: the last frame's joints in percent of the frame, the classes'
    shares of all pixels, largest first."""
    if "joints" in read:
        last = read["joints"][-1]
        return "joints of the last frame, x y in %: " + ", ".join(f"{100 * x:.0f} {100 * y:.0f}" for x, y in last)
    if "pixels" in read:
        counts: dict[str, int] = {}
        for frame in read["pixels"]:
            for name, count in frame.items():
                counts[name] = counts.get(name, 0) + count
        pixels = sum(counts.values())
        shares = sorted(counts.items(), key=lambda item: -item[1])
        return "pixels: " + ", ".join(f"{name} {100 * count / pixels:.1f} %" for name, count in shares)
    return ""
