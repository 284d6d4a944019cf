"""Procedural scenes whose images, depth and cameras agree exactly."""

from jaxrecon.scenes.config import SCENES, SceneConfig
from jaxrecon.scenes.folder import save_scene
from jaxrecon.scenes.render import render_groups, render_scene, render_scenes, scene_key
from jaxrecon.scenes.rendered import RenderedScene, RenderedScenes

__all__ = [
    "SCENES",
    "RenderedScene",
    "RenderedScenes",
    "SceneConfig",
    "render_groups",
    "render_scene",
    "render_scenes",
    "save_scene",
    "scene_key",
]
