"""Points and cameras in the browser, through viser."""

from functools import partial
from typing import TYPE_CHECKING, Any

from jaxrecon.errors import InputError
from jaxrecon.extras import Extra
from jaxrecon.formats.colmap import quaternions
from jaxrecon.formats.scene import (
    FRUSTUM_SIZE,
    Scene,
    check_cameras,
    file_stems,
    scene_size,
    select_points,
    vertical_view_angle,
)

if TYPE_CHECKING:
    from jaxrecon.formats.viewer_guard import Guard

_POINT_SIZE = 0.001


def serve(
    scene: Scene, *, port: int = 8080, max_points: int = 1_000_000, share: bool = False
) -> Any:
    """Starts a web server that shows the scene to this machine, and to no page of another server.

    Args:
      scene: what to show; its points under the mask, at most `max_points` of them.
      port: where to serve; the next free one if it is taken.
      share: give the scene a public address as well, through viser's own relay on the internet:
        whoever knows it sees the scene.

    Returns:
      The running `viser.ViserServer`.

    Raises:
      InputError: viser is not installed or cannot be kept from other web sites, a camera is not
        usable, there is no point to show, or no public address can be had.
    """
    with Extra("view", "the viewer needs viser"):
        import viser  # noqa: F401
    check_cameras(scene)
    points = select_points(scene, max_points)
    size = scene_size(points.xyz)
    server = _started(port, share)
    server.scene.set_up_direction("-y")
    server.scene.add_point_cloud(
        "/points", points.xyz, points.rgb, point_size=_POINT_SIZE * size, precision="float32"
    )
    turn = quaternions(scene.world_from_camera[:, :3, :3])
    height, width = scene.mask.shape[1:]
    for view, stem in enumerate(file_stems(scene.names)):
        server.scene.add_camera_frustum(
            f"/cameras/{stem}",
            fov=vertical_view_angle(scene, view),
            aspect=width / height,
            scale=FRUSTUM_SIZE * size,
            image=scene.colors[view],
            wxyz=turn[view],
            position=scene.world_from_camera[view, :3, 3],
        )
    return server


def _started(port: int, share: bool) -> Any:
    """A server (`viser.ViserServer`) with nothing in it yet, guarded and shared as asked for."""
    import viser

    from jaxrecon.formats.viewer_guard import Guard, check_guarded, guarded_serving

    guard = Guard()
    with guarded_serving(guard):
        server = viser.ViserServer(host="localhost", port=port, label="jaxrecon", verbose=False)
    try:
        check_guarded(server.get_port())
        if share:
            guard.public_url = _public_url(server)
        server.request_share_url = partial(_refuse_sharing, guard)
        server.gui.configure_theme(show_share_button=False)
    except BaseException:
        server.stop()
        raise
    return server


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
