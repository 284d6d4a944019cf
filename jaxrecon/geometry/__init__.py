"""Geometry on arrays: poses, rotations, rays, edges and normals. Knows nothing of models."""

from jaxrecon.geometry.edges import depth_edges, depth_normal_edges, normal_edges
from jaxrecon.geometry.intrinsics import intrinsics_from_points
from jaxrecon.geometry.normals import normals_from_points
from jaxrecon.geometry.rotation import nearest_rotation
from jaxrecon.geometry.transforms import invert_rigid, rigid, transform_points

__all__ = [
    "depth_edges",
    "depth_normal_edges",
    "intrinsics_from_points",
    "invert_rigid",
    "nearest_rotation",
    "normal_edges",
    "normals_from_points",
    "rigid",
    "transform_points",
]
