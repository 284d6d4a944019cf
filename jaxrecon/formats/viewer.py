"""Points and cameras in the browser, through viser."""

import atexit
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxrecon.checks import shown, whole_number
from jaxrecon.errors import InputError
from jaxrecon.extras import Extra
from jaxrecon.formats.options import check_max_points
from jaxrecon.formats.scene import Scene, check_cameras, file_stems, scene_size
from jaxrecon.formats.viewer_cameras import (
    Look,
    cameras_of,
    first_look,
    frustum_length,
    look_from_outside,
)
from jaxrecon.formats.viewer_cloud import Cloud, Eye, cloud_of, point_size, sampled

if TYPE_CHECKING:
    from jaxrecon.formats.viewer_controls import Shown
    from jaxrecon.formats.viewer_guard import Guard

HOST, PORT, MOST_POINTS = "localhost", 8080, 1_000_000
"""Where a scene is served, and how many of its points are shown at once, if nothing is said."""

_LAST_PORT = 2**16 - 1
_NEAR, _FAR = 1e-3, 1e2
_LOOSE_POINTS = 2e-3
_MOST_MEASURED = 200_000


def serve(
    scene: Scene,
    *,
    host: str = HOST,
    port: int = PORT,
    max_points: int = MOST_POINTS,
    share: bool = False,
) -> Any:
    """Starts a web server that shows the scene to this machine, and to no page of another server.

    It opens with what the first camera sees. The points that are shown while a page moves are an
    even sample; once it stands still, more of what it sees follow, up to `max_points`.

    Args:
      scene: what to show.
      host: the address of this machine to serve at; others than localhost show the scene to
        whoever can reach them.
      port: where to serve; the next free one if it is taken.
      max_points: the most points to show at once.
      share: give the scene a public address as well, through viser's own relay on the internet:
        whoever knows it sees the scene.

    Returns:
      The running `viser.ViserServer`.

    Raises:
      InputError: viser is not installed or cannot be kept from other web sites, a camera is not
        usable, there is no point to show, or the address or a public one cannot be had.
    """
    _check_viser()
    check_max_points(max_points)
    check_cameras(scene)
    cloud, cameras = cloud_of(scene), cameras_of(scene)
    from jaxrecon.formats.viewer_nodes import ShownCameras

    size = scene_size(cloud.xyz[sampled(cloud.kept, _MOST_MEASURED)])
    shown_points = min(max_points, int(cloud.kept.sum()))
    server = _started(host, port, share)
    with _stopped_after_error(server):
        _open_at(server, first_look(cameras, scene), cameras.up, size)
        content = _content(
            server,
            cloud,
            size,
            point_size(scene, shown_points, cloud.count),
            max_points,
            scene=scene,
            cameras=cameras,
            frusta=ShownCameras(
                server,
                cameras,
                scene.colors,
                file_stems(scene.names),
                frustum_length(cameras.centre, size),
            ),
            metric=scene.metric_scale is not None,
        )
        _follow_pages(content)
    return server


def serve_cloud(
    cloud: Cloud,
    *,
    up: np.ndarray,
    host: str = HOST,
    port: int = PORT,
    max_points: int = MOST_POINTS,
    share: bool = False,
) -> Any:
    """As `serve`, of points without cameras; `up` is the direction of their world that is up."""
    _check_viser()
    check_max_points(max_points)
    size = scene_size(cloud.xyz[:_MOST_MEASURED])
    server = _started(host, port, share)
    with _stopped_after_error(server):
        _open_at(server, look_from_outside(cloud.xyz, up), up, size)
        _follow_pages(_content(server, cloud, size, _LOOSE_POINTS * size, max_points))
    return server


def _check_viser() -> None:
    with Extra("view", "the viewer needs viser"):
        import viser  # noqa: F401


@contextmanager
def _stopped_after_error(server: Any) -> Iterator[None]:
    try:
        yield
    except BaseException:
        server.stop()
        raise


def _content(
    server: Any, cloud: Cloud, size: float, point_size: float, most: int, **known: Any
) -> "Shown":
    from jaxrecon.formats.viewer_controls import Shown, add_controls
    from jaxrecon.formats.viewer_nodes import ShownPoints

    points = ShownPoints(server, cloud, point_size, most)
    content = Shown(server, points, size, **known)
    add_controls(content)
    return content


def _open_at(server: Any, look: Look, up: np.ndarray, size: float) -> None:
    """What a page sees first, and where it comes back to; `up` is up in the scene."""
    server.scene.set_up_direction(up)
    camera = server.initial_camera
    camera.position, camera.look_at, camera.up = look.position, look.target, look.up
    camera.fov = look.fov
    reach = float(np.linalg.norm(look.target - look.position))
    camera.near, camera.far = _NEAR * min(reach, size), _FAR * max(reach, size)


def _follow_pages(content: "Shown") -> None:
    """More points and fewer photos where a page looks."""
    places: dict[int, np.ndarray] = {}

    def follow() -> None:
        if content.frusta is not None:
            content.frusta.seen_from(np.array(list(places.values())).reshape(-1, 3))

    async def moved(camera: Any) -> None:
        places[camera.client.client_id] = np.array(camera.position)
        content.points.moved(eye_of(camera))
        follow()

    def came(client: Any) -> None:
        client.camera.on_update(moved)
        places[client.client_id] = np.array(client.camera.position)
        content.points.came(eye_of(client.camera))
        follow()

    content.server.on_client_connect(came)
    content.server.on_client_disconnect(lambda client: places.pop(client.client_id, None))


def eye_of(camera: Any) -> Eye:
    """Where a page looks from, as its camera (`viser.CameraHandle`) says."""
    from scipy.spatial.transform import Rotation

    position = np.array(camera.position, np.float64)
    return Eye(
        position=position,
        rotation=Rotation.from_quat(camera.wxyz, scalar_first=True).as_matrix(),
        fov=float(camera.fov),
        aspect=float(camera.aspect),
        reach=float(np.linalg.norm(camera.look_at - position)) or 1.0,
    )


def _started(host: str, port: int, share: bool) -> Any:
    """A server (`viser.ViserServer`) with nothing in it yet, guarded and shared as asked for."""
    import viser

    from jaxrecon.formats.viewer_guard import Guard, check_guarded, guarded_serving

    _check_host(host)
    whole_number("port", port, most=_LAST_PORT)
    guard = Guard(host)
    with guarded_serving(guard), _quiet():
        server = viser.ViserServer(host=host, port=port, label="jaxrecon", verbose=False)
    server.stop = _quiet_stop(server.stop)
    try:
        check_guarded(host, server.get_port())
        if share:
            guard.public_url = _public_url(server)
        server.request_share_url = partial(_refuse_sharing, guard)
        server.gui.configure_theme(control_width="small", show_logo=False, show_share_button=False)
        server.gui.main_panel.dock_right()
    except BaseException:
        server.stop()
        raise
    return server


def _check_host(host: str) -> None:
    """Refuses an address that is none of this machine: viser would wait for ever."""
    if host == HOST:
        return
    if not isinstance(host, str):
        raise InputError(f"host: found {shown(host)}; give an address of this machine as text")
    try:
        found = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in found:
            with socket.socket(family, kind, protocol) as tried:
                tried.bind(address)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no address"
        raise InputError(
            f"host {shown(host)}: {reason}; give an address of this machine, such as 0.0.0.0 for "
            "all of them, or leave it out"
        ) from error


def _quiet_stop(stop: Callable[[], None]) -> Callable[[], None]:
    """A server's `stop` that prints nothing, now or at the end of the process."""

    def stopped() -> None:
        atexit.unregister(stopped)
        atexit.unregister(stop)
        with _quiet():
            stop()

    atexit.register(stopped)
    return stopped


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the banner from standard output that viser prints through rich, however it is asked."""
    import rich

    console = rich.get_console()
    before, console.quiet = console.quiet, True
    try:
        yield
    finally:
        console.quiet = before


def _public_url(server: Any) -> str:
    url = server.request_share_url()
    if not url:
        raise InputError("share: viser's relay on the internet gave no address; leave it out")
    return url


def _refuse_sharing(guard: "Guard", verbose: bool = True) -> str:
    """In place of viser's own function, which a page could have called."""
    if guard.public_url is None:
        raise InputError("the scene is not shared; serve it with share=True (--share)")
    return guard.public_url
