"""Reading of video files; shared with the driver's pipeline, so it lives in `spikeloom.video`."""

from spikeloom.video import VideoError, read_clip

__all__ = ["VideoError", "read_clip"]
