"""Rendered scenes whose geometry is known exactly."""

from jaxrecon.scenes.room import RenderedScene, render_room

__all__ = ["RenderedScene", "render_room"]
