"""Points and cameras in the browser, through viser."""

from typing import Any

from jaxrecon.errors import InputError
from jaxrecon.export.colmap import quaternions
from jaxrecon.export.scene import (
    FRUSTUM_SIZE,
    Scene,
    check_cameras,
    file_stems,
    scene_size,
    select_points,
    vertical_view_angle,
)

_POINT_SIZE = 0.001


def serve(scene: Scene, *, port: int = 8080, max_points: int = 1_000_000) -> Any:
    """Starts a web server on this machine that shows the scene.

    Args:
      scene: what to show; its points under the mask, at most `max_points` of them.
      port: where to serve; the next free one if it is taken.

    Returns:
      The running `viser.ViserServer`.

    Raises:
      InputError: viser is not installed, a camera is not usable, or there is no point to show.
    """
    try:
        import viser
    except ImportError as error:
        raise InputError("the viewer needs viser; pip install jaxrecon[view]") from error
    check_cameras(scene)
    points = select_points(scene, max_points)
    size = scene_size(points.xyz)
    server = viser.ViserServer(host="localhost", port=port, label="jaxrecon", verbose=False)
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
