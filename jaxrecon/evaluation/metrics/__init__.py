"""Errors of depth, points, poses and trajectories."""
