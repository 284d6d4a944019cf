"""Geometry on arrays: poses, rays, normals, alignment, overlap. Knows nothing of models."""

from jaxrecon.geometry.alignment import Similarity, umeyama
from jaxrecon.geometry.consistency import depth_consistency
from jaxrecon.geometry.edges import (
    beside_depth_edges,
    depth_edges,
    depth_normal_edges,
    normal_edges,
)
from jaxrecon.geometry.frustum import frustum_corners, frustums_overlap
from jaxrecon.geometry.intrinsics import intrinsics_from_points, unproject_depth
from jaxrecon.geometry.joining import (
    IDENTITY,
    Fit,
    SharedViews,
    composed,
    fit_of,
    inverse,
    join_by_points,
    join_by_poses,
    matched,
    seen_by,
    seen_by_the_next,
)
from jaxrecon.geometry.normals import normals_from_points
from jaxrecon.geometry.overlap import overlap
from jaxrecon.geometry.pose_encoding import decode_pose, encode_pose
from jaxrecon.geometry.pose_graph import Edge, settled
from jaxrecon.geometry.quaternion import (
    multiply_quaternions,
    quaternion_from_rotation,
    rotation_from_quaternion,
)
from jaxrecon.geometry.rotation import nearest_rotation
from jaxrecon.geometry.transforms import invert_rigid, rigid, transform_points

__all__ = [
    "IDENTITY",
    "Edge",
    "Fit",
    "SharedViews",
    "Similarity",
    "beside_depth_edges",
    "composed",
    "decode_pose",
    "depth_consistency",
    "depth_edges",
    "depth_normal_edges",
    "encode_pose",
    "fit_of",
    "frustum_corners",
    "frustums_overlap",
    "intrinsics_from_points",
    "inverse",
    "invert_rigid",
    "join_by_points",
    "join_by_poses",
    "matched",
    "multiply_quaternions",
    "nearest_rotation",
    "normal_edges",
    "normals_from_points",
    "overlap",
    "quaternion_from_rotation",
    "rigid",
    "rotation_from_quaternion",
    "seen_by",
    "seen_by_the_next",
    "settled",
    "transform_points",
    "umeyama",
    "unproject_depth",
]
