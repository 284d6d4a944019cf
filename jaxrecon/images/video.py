"""Frames of a video, upright, in order."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from jaxrecon.errors import InputError, reason_of
from jaxrecon.extras import Extra
from jaxrecon.images.decode import from_array
from jaxrecon.images.pictures import holds_too_much
from jaxrecon.images.sampling import Pick, Sampling
from jaxrecon.images.video_facts import (
    frame_end,
    pixel_aspect,
    promised_end,
    shown_size,
    squared,
    told_of,
)
from jaxrecon.images.views import Source, View
from jaxrecon.reading import open_plain

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

CONTAINERS = (
    *("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi", "mpeg", "mpegts", "mpegvideo", "m4v"),
    *("asf", "flv", "ogg", "h264", "hevc"),
)
"""FFmpeg's names of the formats that are opened, whatever a file is called: each holds its frames
itself. Playlists (HLS, DASH, concat, image sequences) name other files and addresses.
"""


_HD_WIDTH, _SD_HEIGHT = 1280, 576  # mpv's bounds, where a video does not tell its colour matrix
_UNTOLD = 2  # ISO 23091-2: unspecified


def open_video(path: Path, sampling: Sampling) -> Source:
    """The frames of a video that `sampling` takes, decoded by PyAV as they are asked for.

    The count is the container's own, which may be off or absent.

    Raises:
      InputError: the file is no regular file, or no video of the formats in `CONTAINERS`; how long
        it is should limit the views and is not told; or, as frames are asked for, it is damaged,
        has none, has frames that fill the memory, or frames without times, which a rate needs.
    """
    with _opened(path) as (container, stored):
        stream = _main_stream(container, path)
        frames = min(stream.frames, stored)
        end, rate = promised_end(container, stream), stream.average_rate
        start = float((stream.start_time or 0) * (stream.time_base or 0))
        seconds = None if end is None else max(end - start, 0.0)
        if seconds is None and frames and rate:
            seconds = frames / float(rate)
    pick = sampling.of_video(str(path), frames, seconds)
    notes: list[str] = []
    if pick.interval is not None and sampling.fps is None:
        whole = f" of {frames}" if frames else ""
        about = f", about {pick.count}{whole} frames" if pick.count else ""
        notes.append(
            f"{1 / pick.interval:.3g} frames a second are taken of {path.name}{about}: fps (--fps) "
            "takes more or fewer, stride=1 (--stride 1) all"
        )
    count = None if pick.count is None else max(pick.count - pick.skip, 0)
    return Source(count, _frames(path, pick, notes), notes)


@contextmanager
def _opened(path: Path) -> Iterator[tuple["InputContainer", int]]:
    """The container, and the bytes of the file; FFmpeg opens no other file and no address.

    Raises:
      InputError: PyAV is not installed, the file cannot be opened, or what FFmpeg raises inside
        the block.
    """
    with Extra("video", f"cannot read {path}: videos need PyAV"):
        import av
    with open_plain(path) as file:  # which waits for no pipe
        stored = os.fstat(file.fileno()).st_size
    most = 2 * (Image.MAX_IMAGE_PIXELS or 2**27)
    options = {
        "format_whitelist": ",".join(CONTAINERS),
        "protocol_whitelist": "file",
        "max_pixels": str(most),
    }
    try:
        with av.open(f"file:{path}", options=options) as container:
            yield container, stored
    except InputError:
        raise
    except Exception as error:  # what is damaged is told by FFmpeg's errors, and by others
        raise _damaged(path, error) from error


def _frames(path: Path, pick: Pick, notes: list[str]) -> Iterator[View]:
    """The frames as they are asked for; with the last one, what to tell of the video."""
    index, end, interlaced, taken, chosen = -1, None, 0, 0, pick.chooser()
    with _opened(path) as (container, stored):
        stream = _main_stream(container, path)
        aspect, promised = pixel_aspect(stream), promised_end(container, stream)
        for index, frame in enumerate(_decoded(container, path)):
            end, interlaced = frame_end(frame, stream), interlaced + frame.interlaced_frame
            width, height = shown_size((frame.width, frame.height), aspect)
            if holds_too_much(width, height, stored):
                raise InputError(
                    f"cannot read {path}: its frames have {width}x{height} pixels, in a file of "
                    f"{stored} bytes; save it again"
                )
            if not chosen(index, _seconds(frame, stream, index, path, pick)):
                continue
            taken += 1
            if taken > (pick.most or taken):
                return
            if taken > pick.skip:
                name = f"frame_{index:06d}"
                turned = _shown(frame).turned
                yield View(name, partial(_read, _upright(frame), name, aspect, turned=turned))
        notes += told_of(path, stream, index + 1, end, promised, interlaced)
    if index < 0:
        raise InputError(f"cannot read {path}: it has no frames; give a longer video")


def _seconds(
    frame: "VideoFrame", stream: "VideoStream", index: int, path: Path, pick: Pick
) -> float:
    """When a frame is shown; 0 where nobody asks."""
    if pick.interval is None:
        return 0.0
    if frame.time is not None:
        return float(frame.time)
    if not stream.average_rate:
        raise InputError(
            f"cannot read {path}: its frames have no times, which a rate (fps) needs; give stride"
        )
    return index / float(stream.average_rate)


def _decoded(container: "InputContainer", path: Path) -> Iterator["VideoFrame"]:
    """All frames; a packet cut short is refused, where FFmpeg would end in silence."""
    stream = _main_stream(container, path)
    stream.thread_type = "AUTO"
    for packet in container.demux(stream):
        if packet.is_corrupt:
            raise InputError(f"cannot read {path}: the video is cut short; copy or save it again")
        yield from packet.decode()


def _main_stream(container: "InputContainer", path: Path) -> "VideoStream":
    """The video itself: neither cover art nor thumbnails, and a track that players show by default.

    Of several such it is the largest.

    Raises:
      InputError: there is none, or two are alike.
    """
    from av.stream import Disposition

    stills = Disposition.attached_pic | Disposition.timed_thumbnails
    videos = [stream for stream in container.streams.video if not stream.disposition & stills]
    if not videos:
        raise InputError(f"cannot read {path}: no video stream found; give a whole video")

    def rank(stream: "VideoStream") -> tuple[bool, int]:
        return bool(stream.disposition & Disposition.default), stream.width * stream.height

    best = max(map(rank, videos))
    chosen = [stream for stream in videos if rank(stream) == best]
    if len(chosen) > 1:
        size = f"{chosen[0].width}x{chosen[0].height}"
        raise InputError(
            f"cannot read {path}: it holds {len(chosen)} videos of {size} pixels; save the one "
            "that you want in a file of its own"
        )
    return chosen[0]


class _Shown(NamedTuple):
    """How players show a stored frame: rows and columns exchanged first, then each mirrored."""

    turned: bool
    upside_down: bool
    left_right: bool


def _shown(frame: "VideoFrame") -> _Shown:
    """What a frame's display matrix says, to the nearest right angle.

    Phones store portrait videos on their side, and some those of the front camera mirrored. The
    matrix (a b u, c d v, x y w) shows the pixel (p, q) at (a p + c q + x, b p + d q + y); see ISO
    14496-12, track header.
    """
    told = frame.side_data.get("DISPLAYMATRIX")
    if told is None:
        return _Shown(turned=False, upside_down=False, left_right=False)
    a, b, _, c, d, *_ = np.frombuffer(told, np.int32).tolist()
    if abs(b) + abs(c) > abs(a) + abs(d):
        return _Shown(turned=True, upside_down=b < 0, left_right=c < 0)
    return _Shown(turned=False, upside_down=d < 0, left_right=a < 0)


def _upright(frame: "VideoFrame") -> UInt8[np.ndarray, "H W 3"]:
    pixels, shown = rgb_of(frame), _shown(frame)
    if shown.turned:
        pixels = pixels.swapaxes(0, 1)
    return pixels[:: -1 if shown.upside_down else 1, :: -1 if shown.left_right else 1]


def rgb_of(frame: "VideoFrame") -> UInt8[np.ndarray, "H W 3"]:
    """A frame's colours, by the matrix that it names, else as players take it.

    FFmpeg takes BT.601 for all that names none, which is right of small pictures alone.
    """
    from av.video.reformatter import Colorspace

    hd = frame.width >= _HD_WIDTH or frame.height > _SD_HEIGHT
    told = frame.colorspace != _UNTOLD or frame.format.is_rgb
    matrix = Colorspace.ITU709 if hd and not told else None
    return frame.reformat(format="rgb24", src_colorspace=matrix).to_ndarray()


def _read(
    pixels: UInt8[np.ndarray, "H W 3"], name: str, aspect: float | None, *, turned: bool
) -> Image.Image:
    return squared(from_array(pixels, name), aspect, turned=turned)


def _damaged(path: Path, error: Exception) -> InputError:
    return InputError(
        f"cannot read {path}: the video is damaged or no video ({reason_of(error)}); save it again"
    )
