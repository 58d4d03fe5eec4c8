"""What the tests of the pipeline share: videos of noise, a camera."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spikeloom.host.pipeline_source import CameraSource, ClipShape


@pytest.fixture(scope="session")
def noise_video(write_video: Callable[..., Path]) -> Callable[..., Path]:
    """`noise_video(path, frames, height=..., width=..., codec=...)` writes a video and returns its path."""

    def write(path: Path, frames: int, *, height: int = 40, width: int = 64, codec: str = "ffv1") -> Path:
        pictures = np.random.default_rng(1).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)
        return write_video(path, pictures, codec)

    return write


@pytest.fixture(scope="session")
def video(noise_video: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 frames."""
    return noise_video(tmp_path_factory.mktemp("video") / "noise.mkv", 30)


@pytest.fixture
def truncated(noise_video: Callable[..., Path], tmp_path: Path) -> Path:
    """A video, part.avi, whose end is missing."""
    whole = noise_video(tmp_path / "whole.avi", 30, codec="mpeg4").read_bytes()
    path = tmp_path / "part.avi"
    path.write_bytes(whole[:int(len(whole) * 0.7)])
    return path


class Camera(CameraSource):
    """A video file in place of the device, then an error or silence.

    Its container gives `frames` frames, `pause` seconds apart, and calls `then`.
    """

    def __init__(
        self, video: Path, shape: ClipShape, frames: int, then: Callable[[], object], pause: float = 0.0
    ) -> None:
        super().__init__("/dev/null", shape, hop=shape.frames)
        self.name = "camera /dev/video7"
        self._video, self._count, self._then, self._pause = video, frames, then, pause

    def _open(self) -> Any:
        import av

        camera = self

        class Container:
            def __enter__(self) -> Any:
                return self

            def __exit__(self, *exception: object) -> None:
                pass

            def decode(self, video: int) -> Iterator[Any]:
                with av.open(str(camera._video)) as container:
                    for number, frame in enumerate(container.decode(video=video)):
                        if number == camera._count:
                            camera._then()
                        time.sleep(camera._pause)
                        yield frame

        return Container()


@pytest.fixture(scope="session")
def camera() -> type[Camera]:
    return Camera
