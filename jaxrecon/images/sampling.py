"""Which views are taken: every so many, so many a second, at most so many, by motion."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypedDict

from jaxrecon.checks import is_whole, real_number, shown, whole_number
from jaxrecon.errors import InputError

USUAL_FPS = 2.0
"""Frames a second that are taken of a video where neither a stride nor a rate is given."""

MOST_MOTION = 0.2
"""Motion is asked for up to here; views farther apart may share nothing that could be found."""

_ROUNDING = 0.01


class SamplingKeywords(TypedDict, total=False):
    """Fields of `Sampling` as keywords."""

    stride: int | None
    fps: int | float | None
    max_views: int | None
    motion: int | float | None


@dataclass(frozen=True)
class Sampling:
    """Which views of a source are taken.

    Attributes:
      stride: each `stride`-th view, starting with the first.
      fps: of a video, so many frames a second in place of each `stride`-th one.
      max_views: at most so many, spread evenly.
      usual_fps: `fps` of a video where neither is given; None takes every frame.
      skip: leaves out so many of the views that would be taken first.
      motion: of the views that the others choose, takes the first, and each in which the picture
        has moved so far since the last one taken, as a share of its width, up to `MOST_MOTION`;
        see `motion_between`.

    Raises:
      InputError: a number is out of range, or both `stride` and `fps` are given.
    """

    stride: int | None = None
    fps: int | float | None = None
    max_views: int | None = None
    usual_fps: int | float | None = None
    skip: int = 0
    motion: int | float | None = None

    def __post_init__(self) -> None:
        if is_whole(self.stride) and self.stride < 1:
            raise InputError(f"stride={shown(self.stride)} takes no image; give at least 1")
        for name in ("stride", "max_views"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, whole_number(name, value, least=1))
        if self.motion is not None:
            motion = real_number("motion", self.motion)
            if not 0 < motion <= MOST_MOTION:
                raise InputError(
                    f"motion={shown(self.motion)} must be above 0 and at most {MOST_MOTION}, a "
                    "share of the image's width; try 0.05"
                )
            object.__setattr__(self, "motion", motion)
        if self.fps is None:
            return
        if not 0 < real_number("fps", self.fps) < math.inf:
            raise InputError(f"fps={shown(self.fps)} must be above 0 and finite")
        if self.stride is not None:
            raise InputError(
                f"fps={shown(self.fps)} and stride={self.stride} both choose frames; give one"
            )

    def numbers(self, count: int, what: str) -> Sequence[int]:
        """The numbers of the views that are taken of so many.

        Args:
          count: how many there are.
          what: the source, for messages.

        Raises:
          InputError: a rate is given, which only a video has.
        """
        if self.fps is not None:
            raise InputError(
                f"fps={shown(self.fps)}: {what} is no video, whose frames have times; give stride"
            )
        taken = range(0, count, self.stride or 1)
        if self.max_views is not None and len(taken) > self.max_views:
            spread = [number * len(taken) // self.max_views for number in range(self.max_views)]
            return [taken[number] for number in spread][self.skip :]
        return taken[self.skip :]

    def of_video(self, name: str, frames: int, seconds: float | None) -> "Pick":
        """Which frames are taken of a video.

        Args:
          name: the video's, for messages.
          frames: how many its container says that it has; 0 if it does not.
          seconds: how long it is; None if that is not known.

        Raises:
          InputError: there is a limit to the views, and how long the video is cannot be told.
        """
        fps, stride = self.fps, self.stride
        if fps is None and stride is None:
            fps = self.usual_fps
        length = seconds if fps is not None else frames or None
        if self.max_views is not None:
            if length is None:
                raise InputError(
                    f"max_views={self.max_views}: {name} does not tell how long it is; give fps or "
                    "stride without max_views"
                )
            if fps is None:
                stride = max(stride or 1, math.ceil(length / self.max_views))
            else:
                fps = min(fps, self.max_views / length) if length > 0 else fps
        if fps is None:
            step = stride or 1
            count = -(-frames // step) or None
            return Pick(step, None, count, self.max_views, self.skip)
        count = None if seconds is None else max(math.ceil(seconds * fps), 1)
        if count is not None and frames:
            count = min(count, frames)
        return Pick(1, 1 / fps, count, self.max_views, self.skip)


@dataclass(frozen=True)
class Pick:
    """Which frames of a video are taken.

    Attributes:
      stride: each `stride`-th, if there is no `interval`.
      interval: a frame each so many seconds, the first one at or behind each multiple of it.
      count: about how many these are, if that is known.
      most: at most so many.
      skip: so many of the first of them are left out.
    """

    stride: int
    interval: float | None
    count: int | None
    most: int | None
    skip: int

    def chooser(self) -> Callable[[int, float], bool]:
        """A function that tells of each frame in turn, by number and seconds, whether it is taken.

        A frame that is early by a hundredth of an interval is taken, as times are rounded.
        """
        start: float | None = None
        due = 0

        def chosen(index: int, seconds: float) -> bool:
            nonlocal start, due
            if self.interval is None:
                return index % self.stride == 0
            if start is None:
                start = seconds
            place = math.floor((seconds - start) / self.interval + _ROUNDING)
            if place < due:
                return False
            due = place + 1
            return True

        return chosen
