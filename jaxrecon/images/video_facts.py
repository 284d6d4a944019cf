"""What a video's container tells of its frames: the shape of their pixels, and when they end."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from jaxrecon.images.video_ends import is_cut_off

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

_WIDEST_PIXEL = 4

_LEAST_MISSING = 0.9
_SLACK = 1.0
_MICROSECOND = 1e-6
_RAW = ("h264", "hevc", "m4v", "mpegvideo")
_OF_360_CAMERAS = (".360", ".insv")
_CLOCK = re.compile(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)")


def pixel_aspect(stream: "VideoStream") -> float | None:
    """Width over height of a pixel, 1 if nothing is told; None if it is told and absurd."""
    told = stream.sample_aspect_ratio
    if not told:
        return 1.0
    aspect = float(told)
    return aspect if 1 / _WIDEST_PIXEL <= aspect <= _WIDEST_PIXEL else None


def shown_size(size: tuple[int, int], aspect: float | None) -> tuple[int, int]:
    """The width and height, in square pixels, in which players show a stored frame."""
    width, height = size
    return max(round(width * (aspect or 1)), 1), height


def squared(image: Image.Image, aspect: float | None, *, turned: bool) -> Image.Image:
    """An upright frame in square pixels.

    Args:
      image: the frame.
      aspect: of a stored pixel.
      turned: whether it was stored on its side.
    """
    width, height = image.size
    if turned:
        height, width = shown_size((height, width), aspect)
    else:
        width, height = shown_size((width, height), aspect)
    size = width, height
    return image if size == image.size else image.resize(size, Image.Resampling.BICUBIC)


def promised_end(container: "InputContainer", stream: "VideoStream") -> float | None:
    """When the last frame should be over, in seconds; None if the container does not tell."""
    if container.format.name in _RAW:
        return None
    if stream.duration and stream.time_base:
        return float(((stream.start_time or 0) + stream.duration) * stream.time_base)
    clock = _CLOCK.match(stream.metadata.get("DURATION", ""))
    if clock:
        hours, minutes, seconds = map(float, clock.groups())
        return 3600 * hours + 60 * minutes + seconds
    if not container.duration:
        return None
    end = ((container.start_time or 0) + container.duration) * _MICROSECOND
    return end if len(container.streams) == 1 else end - _SLACK  # sound may last longer


def frame_end(frame: "VideoFrame", stream: "VideoStream") -> float | None:
    """When a frame is over, in seconds; None if it does not tell when it is shown."""
    if frame.pts is None or frame.time_base is None:
        return None
    lasts = float((frame.duration or 0) * frame.time_base)
    return float(frame.pts * frame.time_base) + (lasts or _frame_seconds(stream))


def told_of(
    path: Path,
    stream: "VideoStream",
    count: int,
    end: float | None,
    promised: float | None,
    interlaced: int,
) -> list[str]:
    """What to tell of a video once all frames were decoded.

    Args:
      path: the file.
      stream: of its frames.
      count: of the frames.
      end: when the last one is over, in seconds, if it is known.
      promised: when it should be over.
      interlaced: how many frames are made of two fields.
    """
    told = []
    frame = _frame_seconds(stream)
    missing = 0 if end is None or promised is None or not frame else (promised - end) / frame
    if missing >= _LEAST_MISSING:
        told.append(
            f"{path} ends after {count} frames, some {max(round(missing), 1)} fewer than its "
            "container promises: it was cut short or is damaged; copy it again if you need all"
        )
    elif is_cut_off(path, stream.container.format.name):
        told.append(
            f"{path} ends within a packet, after {count} frames: it was cut short; copy it again "
            "if you need all"
        )
    if pixel_aspect(stream) is None:
        told.append(
            f"{path} says that its pixels are {float(stream.sample_aspect_ratio or 0):g} times as "
            "wide as high, which cannot be; they are taken as square"
        )
    if interlaced:
        told.append(
            f"{interlaced} of {count} frames of {path} are interlaced: two moments in every other "
            "line; deinterlace the video first"
        )
    if path.suffix.lower() in _OF_360_CAMERAS:
        told.append(
            f"{path} is named as one of a 360-degree camera: no pinhole camera is right for such "
            "frames; cut perspective views out of them"
        )
    return told


def _frame_seconds(stream: "VideoStream") -> float:
    return 1 / float(stream.average_rate) if stream.average_rate else 0.0
