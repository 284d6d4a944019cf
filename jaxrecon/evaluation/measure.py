"""Every metric that the truth about one scene allows."""

from dataclasses import dataclass, replace

import jax
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxrecon.checks import finite, real_number, shown, truth_value, whole_number
from jaxrecon.choices import meant
from jaxrecon.errors import InputError
from jaxrecon.evaluation.datasets.ground_truth import GroundTruth, known_matrices
from jaxrecon.evaluation.metrics.cameras import CameraErrors, camera_errors
from jaxrecon.evaluation.metrics.depth import (
    ALIGNMENTS,
    DepthAlignment,
    DepthErrors,
    depth_errors,
)
from jaxrecon.evaluation.metrics.points import Cloud, PointErrors, point_errors
from jaxrecon.evaluation.metrics.pose import (
    PairErrors,
    PoseScores,
    pose_scores,
    relative_pose_errors,
    turned_angles,
)
from jaxrecon.evaluation.metrics.trajectory import (
    TrajectoryErrors,
    stand_in_one_place,
    trajectory_errors,
)
from jaxrecon.evaluation.metrics.unit import UnitErrors, unit_errors
from jaxrecon.evaluation.sampling import ProcessedTruth, process
from jaxrecon.geometry import normals_from_points, overlap, transform_points, unproject_depth
from jaxrecon.images.resize import valid_regions
from jaxrecon.reconstruction import Reconstruction

SPARSE_ANGLE = 60.0
"""In degrees: how far views may be turned that are compared, where depth is sparse and no angle is
given."""

_OVERLAP_STRIDE = 6


@dataclass(frozen=True)
class Settings:
    """How predictions are compared with the truth.

    Attributes:
      min_overlap: pairs of views count for pose metrics if the mean of the two shares, of each
        view's surface points that the other sees, is at least this. It needs true depth and
        intrinsics; without them all pairs count. A view without depth overlaps with none. 0 for
        all pairs.
      max_angle: pairs of views count for pose metrics if the angle of their true relative rotation
        is at most so many degrees. With 180 all pairs do, which None means; but where depth is too
        sparse to tell the overlap that `min_overlap` asks for, None means `SPARSE_ANGLE`, and the
        angle decides alone.
      depth_alignment: see `align_depth`.
      fold_sign: see `relative_pose_errors`.
      max_points: the most points a scene for point metrics; 0 leaves them out.
      icp_distance: see `point_errors`.
      seed: of the choice of points.

    Raises:
      InputError: a value is out of range.
    """

    min_overlap: float = 0.1
    max_angle: float | None = None
    depth_alignment: DepthAlignment = "scale"
    fold_sign: bool = False
    max_points: int = 50_000
    icp_distance: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        overlap = finite(self.min_overlap)
        if overlap is None or not 0 <= overlap <= 1:
            raise InputError(f"min_overlap is {shown(self.min_overlap)}; give a share from 0 to 1")
        angle = 180.0 if self.max_angle is None else finite(self.max_angle)
        if angle is None or not 0 < angle <= 180:
            raise InputError(
                f"max_angle is {shown(self.max_angle)}; give degrees above 0, up to 180"
            )
        if self.depth_alignment not in ALIGNMENTS:
            choices = ", ".join(ALIGNMENTS)
            raise InputError(
                f"depth_alignment is {shown(self.depth_alignment)}; choose one of {choices}"
                f"{meant(self.depth_alignment, ALIGNMENTS)}"
            )
        truth_value("fold_sign", self.fold_sign)
        for name in ("max_points", "icp_distance", "seed"):
            value = getattr(self, name)
            if (finite(value) or 0) < 0:
                raise InputError(f"{name} is {shown(value)}; give at least 0")
        whole_number("max_points", self.max_points)
        whole_number("seed", self.seed)
        real_number("icp_distance", self.icp_distance)


@dataclass(frozen=True, eq=False)
class SceneScores:
    """What was measured on one scene; None where the truth does not allow it, `notes` tell why.

    Attributes:
      name: of the scene.
      views: number of images.
      views_without_depth: of them, those of which no depth is known.
      all_pairs: pairs of views with known poses.
      errors: of the pairs that count for pose metrics.
      by_overlap: whether these were chosen by their overlap.
      max_angle: in degrees, by how much views of these are turned at most.
      pose, trajectory, cameras, depth, unit, points: the metrics.
      notes: one line each.
    """

    name: str
    views: int
    views_without_depth: int
    all_pairs: int
    errors: PairErrors | None
    by_overlap: bool
    max_angle: float
    pose: PoseScores | None
    trajectory: TrajectoryErrors | None
    cameras: CameraErrors | None
    depth: DepthErrors | None
    unit: UnitErrors | None
    points: PointErrors | None
    notes: tuple[str, ...]

    @property
    def pairs(self) -> int:
        """Pairs that count for pose metrics."""
        return 0 if self.errors is None else len(self.errors)

    def values(self) -> dict[str, float]:
        """Every number that was measured, by its name."""
        groups = (self.pose, self.trajectory, self.cameras, self.depth, self.unit, self.points)
        return {name: value for group in groups if group for name, value in vars(group).items()}


@dataclass(frozen=True, eq=False)
class _Surface:
    """Geometry of one scene that needs depth, intrinsics and poses."""

    overlap: Float[np.ndarray, "V V"]
    true: Cloud
    predicted: Cloud


def measure(recon: Reconstruction, truth: GroundTruth, settings: Settings) -> SceneScores:
    """Compares one reconstruction with the truth about its images.

    All pixels of known depth count, whatever the model's confidence.

    Raises:
      InputError: the truth is of another number or size of images than the reconstruction.
    """
    processed = process(truth, recon.transforms)
    notes: list[str] = []
    surface = _surface(recon, truth, processed)
    rule = _pair_rule(truth, surface, settings)
    errors, all_pairs = _pair_errors(recon, truth, rule, settings, notes)
    if truth.depth_is_sparse and settings.min_overlap > 0:
        notes.append("the depth is too sparse to tell overlap: pairs are chosen by angle")
    without = _views_without_depth(processed)
    if 0 < without < len(truth):
        notes.append("some views have no depth")
    return SceneScores(
        name=truth.name,
        views=len(truth),
        views_without_depth=without if processed.depth_z is not None else len(truth),
        all_pairs=all_pairs,
        errors=errors,
        by_overlap=rule.overlap is not None,
        max_angle=rule.max_angle,
        pose=None if errors is None else pose_scores(errors),
        trajectory=_trajectory(recon, truth, notes),
        cameras=_cameras(recon, processed, notes),
        depth=_depth(recon, processed, settings, notes, sparse=truth.depth_is_sparse),
        unit=_unit(recon, truth, processed),
        points=_points(surface, settings, notes),
        notes=tuple(notes),
    )


@dataclass(frozen=True, eq=False)
class _PairRule:
    """Which pairs count: by their overlap, if that is not None, and by their angle in degrees."""

    overlap: Float[np.ndarray, "V V"] | None
    max_angle: float


def _pair_rule(truth: GroundTruth, surface: _Surface | None, settings: Settings) -> _PairRule:
    asked = settings.min_overlap > 0
    angle = SPARSE_ANGLE if asked and truth.depth_is_sparse else 180.0
    angle = angle if settings.max_angle is None else float(settings.max_angle)
    if surface is None or not asked or truth.depth_is_sparse:
        return _PairRule(None, angle)
    return _PairRule((surface.overlap + surface.overlap.T) / 2, angle)


def _pair_errors(
    recon: Reconstruction,
    truth: GroundTruth,
    rule: _PairRule,
    settings: Settings,
    notes: list[str],
) -> tuple[PairErrors | None, int]:
    """Errors of the pairs that count, and how many pairs have known poses."""
    if truth.world_from_camera is None:
        notes.append("no pose metrics: the poses are not known")
        return None, 0
    predicted = np.asarray(recon.world_from_camera, np.float64)
    errors = relative_pose_errors(predicted, truth.world_from_camera, fold_sign=settings.fold_sign)
    pairs = len(errors)
    if not pairs:
        found = "one view" if len(truth) == 1 else "fewer than two known poses"
        notes.append(f"no pose metrics: {found}")
        return None, 0
    errors = errors.select(
        turned_angles(truth.world_from_camera, errors.first, errors.second) <= rule.max_angle
    )
    if not len(errors):
        notes.append(
            f"no pose metrics: no two views are turned by at most {rule.max_angle:g} degrees "
            "(see max_angle)"
        )
        return None, pairs
    if rule.overlap is not None:
        errors = errors.select(rule.overlap[errors.first, errors.second] >= settings.min_overlap)
        if not len(errors):
            notes.append(
                "no pose metrics: no pair of views overlaps enough where depth is known (by "
                f"{settings.min_overlap:g}; see min_overlap)"
            )
            return None, pairs
    return errors, pairs


def _trajectory(
    recon: Reconstruction, truth: GroundTruth, notes: list[str]
) -> TrajectoryErrors | None:
    if truth.world_from_camera is None:
        return None
    known = known_matrices(truth.world_from_camera)
    if known.sum() < 3:
        notes.append("no ATE and RPE: fewer than three known poses")
        return None
    predicted = np.asarray(recon.world_from_camera, np.float64)[known]
    if not np.isfinite(predicted).all():
        notes.append("no ATE and RPE: the predicted poses are not finite")
        return None
    true = truth.world_from_camera[known].astype(np.float64)
    if stand_in_one_place(true):
        notes.append("no ATE and RPE: the true cameras stand in one place")
        return None
    return trajectory_errors(predicted, true)


def _cameras(
    recon: Reconstruction, processed: ProcessedTruth, notes: list[str]
) -> CameraErrors | None:
    if processed.intrinsics is None:
        notes.append("no camera metrics: the intrinsics are not known")
        return None
    true, known = processed.intrinsics, known_matrices(processed.intrinsics)
    left, _, right, _ = valid_regions(recon.transforms).T
    found = camera_errors(np.asarray(recon.intrinsics), true, known, right - left)
    if found is None:
        notes.append("no camera metrics: the intrinsics are not known, or not finite")
    return found


def _depth(
    recon: Reconstruction,
    processed: ProcessedTruth,
    settings: Settings,
    notes: list[str],
    *,
    sparse: bool,
) -> DepthErrors | None:
    """Sparse depth has no edges: its neighbouring pixels are points of different surfaces."""
    if processed.depth_z is None or processed.mask is None:
        notes.append("no depth metrics: the depth is not known")
        return None
    predicted = np.asarray(recon.depth_z)
    if not np.isfinite(predicted[processed.mask]).all():
        notes.append("no depth metrics: the predicted depth is not finite")
        return None
    errors = depth_errors(
        predicted, processed.depth_z, processed.mask, alignment=settings.depth_alignment
    )
    return errors if not sparse else replace(errors, abs_rel_edges=float("nan"))


def _unit(
    recon: Reconstruction, truth: GroundTruth, processed: ProcessedTruth
) -> UnitErrors | None:
    """None where poses or depth are not known, or not finite: other notes tell so."""
    if truth.world_from_camera is None or processed.depth_z is None or processed.mask is None:
        return None
    known = known_matrices(truth.world_from_camera)
    poses, depth = np.asarray(recon.world_from_camera)[known], np.asarray(recon.depth_z)
    if not np.isfinite(poses).all() or not np.isfinite(depth[processed.mask]).all():
        return None
    true = truth.world_from_camera[known]
    return unit_errors(poses, true, depth, processed.depth_z, processed.mask)


def _points(surface: _Surface | None, settings: Settings, notes: list[str]) -> PointErrors | None:
    if settings.max_points == 0:
        return None
    if surface is None or len(surface.true.points) < 3:
        notes.append("no point metrics: they need depth, intrinsics and poses")
        return None
    if not np.isfinite(surface.predicted.points).all():
        notes.append("no point metrics: the predicted points are not finite")
        return None
    return point_errors(
        surface.predicted,
        surface.true,
        max_points=settings.max_points,
        icp_distance=settings.icp_distance,
        seed=settings.seed,
    )


def _surface(
    recon: Reconstruction, truth: GroundTruth, processed: ProcessedTruth
) -> _Surface | None:
    """Overlap and point clouds; None unless depth, intrinsics and poses are known."""
    poses, intrinsics, depth = truth.world_from_camera, processed.intrinsics, processed.depth_z
    if poses is None or intrinsics is None or depth is None:
        return None
    known = known_matrices(poses) & known_matrices(intrinsics)
    if not known.any():
        return None
    mask = (depth > 0) & known[:, None, None]
    poses = np.where(known[:, None, None], poses, np.eye(4)).astype(np.float64)
    # Cameras may be far from the origin, as in maps: no metric depends on where it is.
    poses[:, :3, 3] -= poses[known, :3, 3].mean(axis=0)
    poses = poses.astype(np.float32)
    intrinsics = np.where(known[:, None, None], intrinsics, np.eye(3)).astype(np.float32)
    found = np.asarray(recon.points_world, np.float32)
    shared, points, normals, found_normals = jax.device_get(
        _on_device(depth, mask, poses, intrinsics, found)
    )
    if truth.depth_is_sparse:  # neighbouring pixels are none on the surface
        normals = found_normals = np.zeros_like(normals)
    return _Surface(
        overlap=shared,
        true=Cloud(points[mask], normals[mask]),
        predicted=Cloud(found[mask], found_normals[mask]),
    )


@jax.jit
def _on_device(
    depth_z: Float[Array, "V H W"],
    mask: Bool[Array, "V H W"],
    world_from_camera: Float[Array, "V 4 4"],
    intrinsics: Float[Array, "V 3 3"],
    predicted: Float[Array, "V H W 3"],
) -> tuple[Array, Array, Array, Array]:
    """Overlap, true points, their normals, and the normals of the predicted points."""
    shared = overlap(depth_z, mask, world_from_camera, intrinsics, stride=_OVERLAP_STRIDE)
    points = unproject_depth(depth_z, intrinsics)
    points = transform_points(world_from_camera[:, None, None], points)
    normals, _ = normals_from_points(points, mask)
    predicted_normals, _ = normals_from_points(predicted, mask)
    return shared, points, normals, predicted_normals


def _views_without_depth(processed: ProcessedTruth) -> int:
    if processed.mask is None:
        return 0
    return int((~processed.mask.any(axis=(1, 2))).sum())
