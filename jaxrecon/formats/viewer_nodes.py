"""What stands in the viewer's scene: points at two levels of detail, and cameras with photos."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image

from jaxrecon.formats.ramps import camera_color
from jaxrecon.formats.viewer_cameras import Cameras, covering
from jaxrecon.formats.viewer_cloud import Choice, Cloud, Eye, in_sight, passing, refined, sampled

COARSE = 150_000
"""Points that are shown while a page moves."""

STILL_SECONDS = 0.35
"""A page that has not moved for so long stands still."""

FIRST_SECONDS = 2.0
"""A page that has just come gets more points after so long, so that its first picture is soon."""

_LINE_PIXELS = 1.5
_PHOTOS_PIXELS, _LARGEST_PHOTO = 3e6, 512
_MOVED = 0.02
_WORTHWHILE = 1.3


class WhenStill:
    """Calls a function once nothing has happened for a while, beside the server's event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, work: Callable[[], None]) -> None:
        self._loop = loop
        self._work = work
        self._earliest = 0.0
        self._handle: asyncio.TimerHandle | None = None

    def touch(self, patience: float = STILL_SECONDS) -> None:
        """Something has happened; so many seconds without it are needed, from now on."""
        with suppress(RuntimeError):  # the server has stopped
            self._loop.call_soon_threadsafe(self._restart, patience)

    def _restart(self, patience: float) -> None:
        now = self._loop.time()
        if self._handle is not None:
            self._handle.cancel()
        self._earliest = max(self._earliest, now + patience if patience > STILL_SECONDS else now)
        self._handle = self._loop.call_at(max(self._earliest, now + STILL_SECONDS), self._run)

    def _run(self) -> None:
        self._loop.run_in_executor(None, self._work)


class ShownPoints:
    """The chosen points: an even sample always, and more where a page looks once it stands still.

    Attributes:
      choice: which points are wanted.
      count: how many are shown.
      told: called whenever that changes.
    """

    def __init__(self, server: Any, cloud: Cloud, point_size: float, most: int) -> None:
        self.cloud = cloud
        self.choice = Choice()
        self.count = 0
        self.told: Callable[[], None] = lambda: None
        self._server = server
        self._coarse, self._fine = min(most, COARSE), max(most - COARSE, 0)
        self._size, self._grown = point_size, 1.0
        self._lock = threading.RLock()
        self._nodes: dict[str, Any] = {}
        self._eye: Eye | None = None
        self._drawn: Choice | None = None
        self._sent: Eye | None = None
        self._added = np.empty(0, np.int64)
        self._when_still = WhenStill(server.get_event_loop(), self.refine)
        self.choose()

    @property
    def wanted(self) -> np.ndarray:
        """Which points of the cloud are wanted now."""
        return self._wanted

    def choose(self, **changes: Any) -> None:
        """Wants other points: fields of `Choice` and their values."""
        self.choice = replace(self.choice, **changes)
        with self._lock:
            if self._drawn == self.choice:  # another thread has drawn this one too
                return
            self._drawn = self.choice
            self._wanted = passing(self.cloud, self._drawn)
            index = sampled(self._wanted, self._coarse)
            with self._server.atomic():
                self._draw("coarse", index)
                self._remove("fine")
            self._sent = None
            self._tell(len(index))
        self._when_still.touch()

    def grow(self, factor: float) -> None:
        """Draws points so many times as large as at first."""
        with self._lock:
            self._grown = factor
            for node in self._nodes.values():
                node.point_size = factor * self._size

    def came(self, eye: Eye) -> None:
        """A page has come, and looks from somewhere."""
        self._eye = eye
        self._when_still.touch(FIRST_SECONDS)

    def moved(self, eye: Eye) -> None:
        """A page looks from elsewhere."""
        self._eye = eye
        node = self._nodes.get("fine")
        if node is not None and node.visible and _differ(self._sent, eye):
            node.visible = False
        self._when_still.touch()

    def refine(self) -> None:
        """Shows all that may be shown, in sight of the page that moved last."""
        with self._lock:
            eye, shown = self._eye, min(int(self._wanted.sum()), self._coarse)
            rest = int(self._wanted.sum()) - shown
            if not rest or not self._fine or eye is None:
                return
            whole = rest <= self._fine
            if self._sent is not None and (whole or not _differ(self._sent, eye)):
                self._nodes["fine"].visible = True
            else:
                index = refined(self.cloud, self._wanted, shown, eye, self._fine)
                if self._is_better(index, eye):
                    self._draw("fine", index)
                    self._added = index
                    self._tell(shown + len(index))
                else:
                    self._nodes["fine"].visible = True
            self._sent = eye

    def _is_better(self, index: Int[np.ndarray, " S"], eye: Eye) -> bool:
        """Whether an eye would see far more of these points than of those that it has already."""
        if "fine" not in self._nodes:
            return True
        seen, now = (
            int(in_sight(self.cloud.xyz[some], eye).sum()) for some in (index, self._added)
        )
        return seen > _WORTHWHILE * now

    def _tell(self, count: int) -> None:
        self.count = count
        self.told()

    def _draw(self, name: str, index: Int[np.ndarray, " S"]) -> None:
        if not len(index):  # pages take no cloud of no points
            self._remove(name)
            return
        self._nodes[name] = self._server.scene.add_point_cloud(
            f"/points/{name}",
            self.cloud.xyz[index],
            self.cloud.rgb[index],
            point_size=self._grown * self._size,
            point_shape="rounded",
            point_shading="flat",
            precision="float32",
        )

    def _remove(self, name: str) -> None:
        node = self._nodes.pop(name, None)
        if node is not None:
            node.remove()


def _differ(one: Eye | None, other: Eye) -> bool:
    """Whether two eyes see other things, as far as points go."""
    if one is None:
        return True
    moved = max(
        float(np.abs(one.rotation - other.rotation).max()),
        abs(one.fov - other.fov),
        abs(one.aspect - other.aspect),
    )
    far = np.linalg.norm(one.position - other.position) / one.reach
    return moved > _MOVED or bool(far > _MOVED)


class ShownCameras:
    """A frustum with its photo for each view.

    Attributes:
      nodes: the handles, one a view.
      length: how long they are.
    """

    def __init__(
        self,
        server: Any,
        cameras: Cameras,
        photos: UInt8[np.ndarray, "V H W 3"],
        stems: Sequence[str],
        length: float,
    ) -> None:
        self.length = length
        self._cameras = cameras
        self._hidden: frozenset[int] = frozenset()
        self._covering = covering(cameras.centre, cameras.centre[:1], length)
        self._shown = True
        most = min(round((_PHOTOS_PIXELS / len(cameras)) ** 0.5), _LARGEST_PHOTO)
        with server.atomic():
            self.nodes = [
                server.scene.add_camera_frustum(
                    f"/cameras/{stem}",
                    fov=float(cameras.fov[view]),
                    aspect=float(cameras.aspect[view]),
                    scale=length,
                    thickness=_LINE_PIXELS,
                    thickness_units="screen",
                    color=camera_color(view, len(cameras)),
                    image=smaller(photos[view], most),
                    wxyz=wxyz_of(cameras.rotation[view]),
                    position=cameras.centre[view],
                    visible=view not in self._covering,
                )
                for view, stem in enumerate(stems)
            ]

    def show(self, shown: bool) -> None:
        """Shows all of them, or none."""
        self._shown = shown
        self._update()

    def hide(self, hidden: frozenset[int]) -> None:
        """Hides those of some views."""
        self._hidden = hidden
        self._update()

    def seen_from(self, eyes: Float[np.ndarray, "E 3"]) -> None:
        """Hides those whose photos would cover what the pages at `eyes` see."""
        found = covering(self._cameras.centre, eyes, self.length)
        if found != self._covering:
            self._covering = found
            self._update()

    def _update(self) -> None:
        for view, node in enumerate(self.nodes):
            visible = self._shown and view not in self._hidden | self._covering
            if node.visible != visible:
                node.visible = visible


def wxyz_of(rotation: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "4"]:
    """The quaternion of a rotation, the real part first."""
    from scipy.spatial.transform import Rotation

    return Rotation.from_matrix(rotation).as_quat(scalar_first=True)


def smaller(photo: UInt8[np.ndarray, "H W 3"], most: int) -> UInt8[np.ndarray, "H2 W2 3"]:
    """A picture with no side above `most` pixels."""
    height, width = photo.shape[:2]
    scale = most / max(height, width)
    if scale >= 1:
        return photo
    size = max(round(scale * width), 1), max(round(scale * height), 1)
    return np.asarray(Image.fromarray(photo).resize(size, Image.Resampling.BOX))
