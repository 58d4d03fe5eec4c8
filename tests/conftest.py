"""What tests of all packages share: video files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest


def _write_video(path: Path, pictures: Sequence[np.ndarray], codec: str = "ffv1") -> Path:
    """Video of pictures uint8[H, W, 3], whatever its name says: lossless with ffv1, in Matroska; mpeg4 in AVI."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format={"ffv1": "matroska", "mpeg4": "avi"}[codec]) as container:
        stream: Any = container.add_stream(codec, rate=Fraction(25))
        stream.height, stream.width = pictures[0].shape[:2] if len(pictures) else (16, 16)
        stream.pix_fmt = {"ffv1": "bgr0", "mpeg4": "yuv420p"}[codec]
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="session")
def write_video() -> Callable[..., Path]:
    return _write_video
