"""Frames of a video, upright, in order."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8

from jaxrecon.errors import InputError
from jaxrecon.images.decode import from_array
from jaxrecon.images.views import Source, View

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame


def open_video(path: Path, stride: int) -> Source:
    """Each `stride`-th frame of a video, decoded by PyAV as the frames are asked for.

    The count is the container's own, which may be off or absent.

    Raises:
      InputError: the file is no video; or, as frames are asked for, it is damaged or has none.
    """
    import av
    from av.error import FFmpegError

    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise InputError(f"cannot read {path}: no video stream found; give a whole video")
            frames = container.streams.video[0].frames
    except FFmpegError as error:
        raise _damaged(path, error) from error
    return Source(-(-frames // stride) or None, _frames(path, stride))


def _frames(path: Path, stride: int) -> Iterator[View]:
    import av
    from av.error import FFmpegError

    index = -1
    try:
        with av.open(str(path)) as container:
            for index, frame in enumerate(_decoded(container, path)):
                if index % stride == 0:
                    name = f"frame_{index:06d}"
                    yield View(name, partial(from_array, _upright(frame), name))
    except FFmpegError as error:
        raise _damaged(path, error) from error
    if index < 0:
        raise InputError(f"cannot read {path}: it has no frames; give a longer video")


def _decoded(container: "InputContainer", path: Path) -> Iterator["VideoFrame"]:
    """All frames; a packet cut short is refused, where FFmpeg would end in silence."""
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    for packet in container.demux(stream):
        if packet.is_corrupt:
            raise InputError(f"cannot read {path}: the video is cut short; copy or save it again")
        yield from packet.decode()


def _upright(frame: "VideoFrame") -> UInt8[np.ndarray, "H W 3"]:
    """Turns a frame as its display matrix says; phones store portrait videos on their side."""
    quarter_turns = round(frame.rotation / 90) % 4
    return np.rot90(frame.to_ndarray(format="rgb24"), quarter_turns)


def _damaged(path: Path, error: Exception) -> InputError:
    reason = getattr(error, "strerror", None) or " ".join(str(error).split())
    return InputError(
        f"cannot read {path}: the video is damaged or no video ({reason}); save it again"
    )
