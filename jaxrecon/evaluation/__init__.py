"""Accuracy against known geometry: metrics, sets of scenes, and a report."""

from jaxrecon.evaluation.evaluate import Reconstructs, evaluate
from jaxrecon.evaluation.measure import SceneScores, Settings, measure
from jaxrecon.evaluation.metrics_depth import DepthErrors, align_depth, depth_errors
from jaxrecon.evaluation.metrics_points import Cloud, PointErrors, point_errors, refine_by_icp
from jaxrecon.evaluation.metrics_pose import (
    PairErrors,
    PoseScores,
    pose_auc,
    pose_scores,
    relative_pose_errors,
    share_below,
)
from jaxrecon.evaluation.metrics_trajectory import TrajectoryErrors, trajectory_errors
from jaxrecon.evaluation.report import Report
from jaxrecon.evaluation.sets import EVALUATION_SETS, EvaluationSet, open_set
from jaxrecon.evaluation.sets_common import Pick
from jaxrecon.evaluation.truth import Truth

__all__ = [
    "EVALUATION_SETS",
    "Cloud",
    "DepthErrors",
    "EvaluationSet",
    "PairErrors",
    "Pick",
    "PointErrors",
    "PoseScores",
    "Reconstructs",
    "Report",
    "SceneScores",
    "Settings",
    "TrajectoryErrors",
    "Truth",
    "align_depth",
    "depth_errors",
    "evaluate",
    "measure",
    "open_set",
    "point_errors",
    "pose_auc",
    "pose_scores",
    "refine_by_icp",
    "relative_pose_errors",
    "share_below",
    "trajectory_errors",
]
