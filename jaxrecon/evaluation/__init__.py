"""Accuracy against known geometry: metrics, sets of scenes, and a report."""

from jaxrecon.deprecation import moved_names
from jaxrecon.evaluation.datasets.common import Subset
from jaxrecon.evaluation.datasets.ground_truth import GroundTruth
from jaxrecon.evaluation.datasets.table import DATASETS, Dataset, open_dataset
from jaxrecon.evaluation.evaluate import Reconstructs, evaluate
from jaxrecon.evaluation.measure import SceneScores, Settings, measure
from jaxrecon.evaluation.metrics.cameras import CameraErrors, camera_errors
from jaxrecon.evaluation.metrics.depth import DepthErrors, align_depth, depth_errors
from jaxrecon.evaluation.metrics.points import Cloud, PointErrors, point_errors, refine_by_icp
from jaxrecon.evaluation.metrics.pose import (
    PairErrors,
    PoseScores,
    pose_auc,
    pose_scores,
    relative_pose_errors,
    share_below,
)
from jaxrecon.evaluation.metrics.trajectory import TrajectoryErrors, trajectory_errors
from jaxrecon.evaluation.metrics.unit import UnitErrors, unit_errors
from jaxrecon.evaluation.report import Report

__all__ = [
    "DATASETS",
    "CameraErrors",
    "Cloud",
    "Dataset",
    "DepthErrors",
    "GroundTruth",
    "PairErrors",
    "PointErrors",
    "PoseScores",
    "Reconstructs",
    "Report",
    "SceneScores",
    "Settings",
    "Subset",
    "TrajectoryErrors",
    "UnitErrors",
    "align_depth",
    "camera_errors",
    "depth_errors",
    "evaluate",
    "measure",
    "open_dataset",
    "point_errors",
    "pose_auc",
    "pose_scores",
    "refine_by_icp",
    "relative_pose_errors",
    "share_below",
    "trajectory_errors",
    "unit_errors",
]

__getattr__ = moved_names(
    __name__,
    {
        "EVALUATION_SETS": f"{__name__}:DATASETS",
        "EvaluationSet": f"{__name__}:Dataset",
        "Pick": f"{__name__}:Subset",
        "Truth": f"{__name__}:GroundTruth",
        "open_set": f"{__name__}:open_dataset",
    },
)
