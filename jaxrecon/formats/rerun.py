"""Recordings for the Rerun viewer: cameras, pictures, depth and points on a timeline of views."""

from pathlib import Path
from typing import Any

import numpy as np

from jaxrecon.errors import encodable
from jaxrecon.extras import Extra, check_installed
from jaxrecon.files import replacing_file
from jaxrecon.formats.depths import DepthMaps
from jaxrecon.formats.options import ExportOptions
from jaxrecon.formats.scene import Scene, check_cameras, file_stems
from jaxrecon.formats.thinning import chosen_points

DEFAULT_POINTS = 500_000
TIMELINE = "view"

_EXTRA = ("rerun", "Rerun recordings need rerun-sdk")
_JPEG_QUALITY = 90


def write_rerun(scene: Scene, path: Path, options: ExportOptions) -> int:
    """Writes a recording (.rrd) with OpenCV's axes and the processed pictures.

    `world/points` and `world/cameras/<view>` hold always. On the timeline `view`, `world/camera`
    goes from view to view and has its `picture` (JPEG) and `depth`, of the pixels under the mask.
    At most `max_points` points, by default 500,000, are written.

    Returns:
      The number of points that were written.

    Raises:
      InputError: rerun-sdk is not installed, a camera is not finite, or there is no point to write.
      OutputError: the file cannot be written.
    """
    check_installed("rerun", *_EXTRA)
    check_cameras(scene)
    points = chosen_points(scene, options, DEFAULT_POINTS)
    recording = _Recording()
    recording.log("world", recording.rr.ViewCoordinates.RDF)
    recording.log("world/points", recording.rr.Points3D(points.xyz, colors=points.rgb))
    maps = DepthMaps(scene, "processed")
    with (
        replacing_file(path) as temporary,
        options.stages.stage("rerun", total=len(scene.names)) as advance,
    ):
        for view, stem in enumerate(file_stems(scene.names)):
            recording.log(["world", "cameras", stem], *_camera(recording.rr, scene, view))
            recording.log_view(maps, view)
            advance()
        temporary.write_bytes(recording.whole())
    return len(points.pixel)


class _Recording:
    """A recording in memory: what Rerun writes to a file itself, a full disk cuts short unseen."""

    def __init__(self) -> None:
        with Extra(*_EXTRA):
            import rerun
        self.rr: Any = rerun
        self._stream = rerun.RecordingStream("jaxrecon")
        self._stream.set_log_time_enabled(False)
        self._stream.set_log_tick_enabled(False)
        self._bytes = self._stream.binary_stream()

    def log(self, entity: str | list[object], *what: Any) -> None:
        """Logs what holds at all times."""
        self._stream.log(entity, *what, static=True, strict=True)

    def log_view(self, maps: DepthMaps, view: int) -> None:
        """Logs one view's camera, picture and depth at its place of the timeline."""
        scene, log = maps.scene, self._stream.log
        self._stream.set_time(TIMELINE, sequence=view)
        photo = self.rr.AnyValues(photo=encodable(scene.names[view]))
        log("world/camera", *_camera(self.rr, scene, view), photo, strict=True)
        picture = self.rr.Image(scene.colors[view]).compress(jpeg_quality=_JPEG_QUALITY)
        log("world/camera/picture", picture, strict=True)
        depth = self.rr.DepthImage(maps.steps(view), meter=1 / maps.unit)
        log("world/camera/depth", depth, strict=True)

    def whole(self) -> bytes:
        """All that was logged, as the content of a file."""
        content = self._bytes.read(flush=True) or b""
        self._stream.disconnect()
        return content


def _camera(rr: Any, scene: Scene, view: int) -> tuple[Any, Any]:
    """A camera's place and its pinhole, with pixels counted from the corner, as Rerun does."""
    height, width = scene.mask.shape[1:]
    pose, matrix = scene.world_from_camera[view], scene.intrinsics[view].astype(np.float64)
    pinhole = rr.Pinhole(
        image_from_camera=matrix + np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]]),
        resolution=(width, height),
        camera_xyz=rr.ViewCoordinates.RDF,
    )
    return rr.Transform3D(translation=pose[:3, 3], mat3x3=pose[:3, :3]), pinhole
