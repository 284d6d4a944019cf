"""Accuracy against known geometry: metrics, sets of scenes, and a report."""

from jaxrecon.evaluation.datasets.common import Pick
from jaxrecon.evaluation.datasets.ground_truth import Truth
from jaxrecon.evaluation.datasets.table import EVALUATION_SETS, EvaluationSet, open_set
from jaxrecon.evaluation.evaluate import Reconstructs, evaluate
from jaxrecon.evaluation.measure import SceneScores, Settings, measure
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
from jaxrecon.evaluation.report import Report

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
