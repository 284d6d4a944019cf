"""One's own scenes as training data: folders of images and what is known about them."""

from jaxrecon.training.own.batches import OwnData, read_own_data
from jaxrecon.training.own.folders import OwnScene, read_own_scene
from jaxrecon.training.own.known import KnownScenes

__all__ = ["KnownScenes", "OwnData", "OwnScene", "read_own_data", "read_own_scene"]
