"""The panel beside the viewer's scene."""

import io
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path as FilePath
from typing import Any

import numpy as np
from PIL import Image

from jaxrecon.errors import JaxreconError, encodable
from jaxrecon.formats.options import ExportOptions
from jaxrecon.formats.scene import Scene
from jaxrecon.formats.viewer_cameras import Cameras, Path, fov_to_hold, middle_depth
from jaxrecon.formats.viewer_cloud import Cloud, chosen_mask
from jaxrecon.formats.viewer_measuring import clicked_point, distance_label
from jaxrecon.formats.viewer_nodes import ShownCameras, ShownPoints, wxyz_of

_FRAMES_A_SECOND = 20
_MOST_PER_CENT = 99.0
_MOST_DOWNLOADED = 2_000_000
_MARK, _MARK_WIDTH = (255, 60, 0), 3.0


@dataclass(frozen=True, eq=False)
class Shown:
    """What a viewer shows.

    Attributes:
      server: the running `viser.ViserServer`.
      points: in its scene.
      size: the diagonal of the points.
      scene: that they are of; None for points alone.
      cameras, frusta: of the scene.
      metric: whether lengths are in metres.
    """

    server: Any
    points: ShownPoints
    size: float
    scene: Scene | None = None
    cameras: Cameras | None = None
    frusta: ShownCameras | None = None
    metric: bool = False


def add_controls(shown: Shown) -> None:
    """Adds the panel to a server."""
    points = shown.points
    status = shown.server.gui.add_markdown(status_text(points.count, points.cloud, shown.scene))

    def tell() -> None:
        status.content = status_text(points.count, points.cloud, shown.scene)

    points.told = tell
    _add_points(shown)
    measuring = _Measuring(shown)
    if shown.cameras is not None and shown.frusta is not None and shown.scene is not None:
        _add_views(shown, shown.scene, shown.frusta)
        _Looking(shown, shown.scene, shown.cameras, shown.frusta, measuring)
    _add_saving(shown)


def status_text(count: int, cloud: Cloud, scene: Scene | None) -> str:
    """How much is shown of what."""
    text = f"**{count:,}** of {cloud.count:,} points"
    if scene is None:
        return text
    views = len(scene.names)
    return f"{text}, {views} {'view' if views == 1 else 'views'}"


def _add_points(shown: Shown) -> None:
    gui, points = shown.server.gui, shown.points
    with gui.add_folder("Points"):
        size = gui.add_slider("Point size", 0.2, 5.0, 0.1, 1.0)
        size.on_update(lambda _: points.grow(size.value))
        if shown.scene is None:
            return
        least = gui.add_slider(
            "Hide least sure",
            *(0.0, _MOST_PER_CENT, 1.0, 0.0),
            hint="per cent of the points, by their confidence",
        )
        level = gui.add_markdown("")
        edges = gui.add_checkbox("Hide depth edges", False)
        masked = gui.add_checkbox(
            "Only what was kept",
            True,
            hint="off: points that the reconstruction left out are shown too",
        )

    def filter_points(_: Any) -> None:
        confidence = confidence_at(points.cloud, least.value)
        level.content = "" if np.isinf(confidence) else f"confidence of {confidence:.3g} and more"
        points.choose(confidence=confidence, edges=not edges.value, masked=masked.value)

    for control in (least, edges, masked):
        control.on_update(filter_points)


def confidence_at(cloud: Cloud, per_cent: float) -> float:
    """The confidence below which so many of a hundred kept points are."""
    if not per_cent or not cloud.kept.any():
        return -np.inf
    return float(np.percentile(cloud.confidence[cloud.kept], per_cent))


def _add_views(shown: Shown, scene: Scene, frusta: ShownCameras) -> None:
    """Which views' points and cameras are shown."""
    gui, points = shown.server.gui, shown.points
    photos = gui.add_checkbox("Cameras and photos", True)
    photos.on_update(lambda _: frusta.show(photos.value))
    with gui.add_folder("Views", expand_by_default=False):
        every = gui.add_button_group("Show", ("all", "none"))
        boxes = [gui.add_checkbox(encodable(name), True) for name in scene.names]
    setting = threading.Event()

    def choose(_: Any) -> None:
        if not setting.is_set():
            hidden = frozenset(view for view, box in enumerate(boxes) if not box.value)
            frusta.hide(hidden)
            points.choose(hidden=hidden)

    def set_every(_: Any) -> None:
        setting.set()
        try:
            with shown.server.atomic():
                for box in boxes:
                    box.value = every.value == "all"
        finally:
            setting.clear()
        choose(None)

    every.on_click(set_every)
    for box in boxes:
        box.on_update(choose)


class _Looking:
    """Looks from the cameras of the scene, and moves along them."""

    def __init__(
        self,
        shown: Shown,
        scene: Scene,
        cameras: Cameras,
        frusta: ShownCameras,
        measuring: "_Measuring",
    ) -> None:
        self._shown, self._scene, self._cameras = shown, scene, cameras
        self._playing: set[int] = set()
        gui, names = shown.server.gui, _numbered(scene.names)
        with gui.add_folder("Look"):
            chosen = gui.add_dropdown("From view", names)
            self._button = gui.add_button("Play along the cameras", disabled=len(cameras) < 2)
            self._pace = gui.add_slider("Views a second", 0.5, 10.0, 0.5, 2.0)
        chosen.on_update(lambda event: self._look(event.client, names.index(chosen.value)))
        self._button.on_click(lambda event: self._play(event.client))
        for view, node in enumerate(frusta.nodes):
            node.on_click(lambda event, view=view: measuring.on or self._look(event.client, view))

    def _look(self, client: Any, view: int) -> None:
        """Looks from a camera, all of its picture in sight."""
        if client is None:  # the server itself has set the control
            return
        cameras, depth = self._cameras, self._scene.points_camera[view, ..., 2].astype(float)
        reach = middle_depth(depth, self._scene.mask[view], self._scene.confidence[view])
        fov, aspect = float(cameras.fov[view]), float(cameras.aspect[view])
        self._playing.discard(client.client_id)
        self._move(client, cameras.centre[view], cameras.rotation[view])
        with client.atomic():
            client.camera.fov = fov_to_hold(fov, aspect, client.camera.aspect)
            client.camera.look_at = cameras.centre[view] + reach * cameras.rotation[view, :, 2]

    def _play(self, client: Any) -> None:
        """Moves a page along all cameras, or stops it."""
        if client.client_id in self._playing:
            self._playing.discard(client.client_id)
            return
        self._playing.add(client.client_id)
        self._button.label = "Stop"
        path, moment = Path(self._cameras), 0.0
        try:
            while client.client_id in self._playing and moment <= path.last:
                if client.client_id not in self._shown.server.get_clients():
                    break
                self._move(client, *path.at(moment))
                time.sleep(1 / _FRAMES_A_SECOND)
                moment += self._pace.value / _FRAMES_A_SECOND
        finally:
            self._playing.discard(client.client_id)
            self._button.label = "Play along the cameras"

    @staticmethod
    def _move(client: Any, position: np.ndarray, rotation: np.ndarray) -> None:
        with client.atomic():
            client.camera.position = position
            client.camera.wxyz = wxyz_of(rotation)


def _numbered(names: Sequence[str]) -> list[str]:
    """Names of the views, each once."""
    return [f"{view + 1}: {encodable(name)}" for view, name in enumerate(names)]


class _Measuring:
    """Two clicks, and how far what they hit is apart."""

    def __init__(self, shown: Shown) -> None:
        self._shown = shown
        self._ends: list[np.ndarray] = []
        self._nodes: list[Any] = []
        gui = shown.server.gui
        with gui.add_folder("Measure"):
            self._switch = gui.add_checkbox("Click two points", False)
            self._result = gui.add_markdown("")
        self._switch.on_update(lambda _: self._turn())

    @property
    def on(self) -> bool:
        """Whether clicks measure."""
        return self._switch.value

    def _turn(self) -> None:
        self._clear()
        scene = self._shown.server.scene
        scene.remove_click_callback()
        if self.on:
            self._result.content = "Click the first point."
            scene.on_click()(self._click)
        else:
            self._result.content = ""

    def _click(self, event: Any) -> None:
        points = self._shown.points
        origin, direction = np.array(event.ray_origin), np.array(event.ray_direction)
        found = clicked_point(points.cloud, points.wanted, origin, direction)
        if found is None:
            self._result.content = "There is no point; click another."
            return
        if len(self._ends) == 2:
            self._clear()
        self._ends.append(found)
        self._mark(found)
        if len(self._ends) == 1:
            self._result.content = "Click the second point."
        else:
            self._tell(*self._ends)

    def _mark(self, place: np.ndarray) -> None:
        scene = self._shown.server.scene
        name = f"/measured/end_{len(self._ends)}"
        radius = 0.004 * self._shown.size
        self._nodes.append(scene.add_icosphere(name, radius=radius, color=_MARK, position=place))

    def _tell(self, first: np.ndarray, second: np.ndarray) -> None:
        label = distance_label(first, second, metric=self._shown.metric)
        scene = self._shown.server.scene
        line = scene.add_line_segments(
            "/measured/line",
            np.stack([first, second])[None].astype(np.float32),
            np.array(_MARK, np.uint8),
            thickness=_MARK_WIDTH,
            thickness_units="screen",
        )
        text = scene.add_label("/measured/label", label, position=(first + second) / 2)
        self._nodes += [line, text]
        self._result.content = f"**{label}**"

    def _clear(self) -> None:
        for node in self._nodes:
            node.remove()
        self._nodes, self._ends = [], []


def _add_saving(shown: Shown) -> None:
    gui, names = shown.server.gui, downloads(shown.scene)
    with gui.add_folder("Save"):
        picture = gui.add_button("Screenshot")
        kind = gui.add_dropdown("Format", names) if names else None
        button = (
            gui.add_button("Download points", hint="those that are shown, in full")
            if names
            else None
        )
    picture.on_click(lambda event: _send_screenshot(event.client))
    if kind is not None and button is not None:
        button.on_click(lambda event: _send_points(shown, event.client, kind.value, button))


def downloads(scene: Scene | None) -> tuple[str, ...]:
    """The formats of points, in one file, whose libraries are installed."""
    from jaxrecon.formats import FORMATS

    if scene is None:
        return ()
    found = []
    for each in FORMATS.values():
        if each.is_folder or "max_points" not in each.takes:
            continue
        try:
            each.check_library()
        except JaxreconError:
            continue
        found.append(each.name)
    return tuple(found)


def _send_screenshot(client: Any) -> None:
    camera = client.camera
    pixels = client.get_render(
        camera.image_height, camera.image_width, transport_format="jpeg", timeout=60
    )
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    client.send_file_download("view.png", file.getvalue(), save_immediately=True)


def _send_points(shown: Shown, client: Any, name: str, button: Any) -> None:
    assert shown.scene is not None
    button.disabled = True
    try:
        file, content = exported(shown.scene, shown.points, name)
        client.send_file_download(file, content, save_immediately=True)
    except JaxreconError as error:
        client.add_notification("Nothing to download", str(error), color="red")
    finally:
        button.disabled = False


def exported(scene: Scene, points: ShownPoints, name: str) -> tuple[str, bytes]:
    """The file of a format that holds the chosen points of a scene, and what it is called.

    Raises:
      InputError: no point is left, or the format cannot hold the scene.
    """
    from jaxrecon.formats import FORMATS

    kind = FORMATS[name]
    chosen = replace(scene, mask=chosen_mask(scene, points.choice))
    with tempfile.TemporaryDirectory() as folder:
        path = FilePath(folder) / kind.file
        kind.write(chosen, path, kind.own(ExportOptions(max_points=_MOST_DOWNLOADED)))
        return kind.file, path.read_bytes()
