"""Names that users choose by, once for the library, its messages and the command line.

The command line lists them without importing JAX.
"""

from typing import Literal, get_args

type AttentionName = Literal["auto", "fast", "sparse", "dense", "mosaic_gpu", "cudnn", "xla"]
"""How to attend: a policy, or one of the backends of dense attention."""

type OrderName = Literal["pca_tree", "raster", "hilbert"]
"""In which order the patches of a scene are cut into blocks; see `jaxrecon.sparse.orders`."""

type JoinName = Literal["points", "poses"]
"""By what chunks of a sequence are joined; see `jaxrecon.pipeline.joins`."""

type GroupName = Literal["sim3", "se3"]
"""Whether a join fits a scale."""

ATTENTIONS: tuple[AttentionName, ...] = get_args(AttentionName.__value__)
ORDERS: tuple[OrderName, ...] = get_args(OrderName.__value__)
JOINS: tuple[JoinName, ...] = get_args(JoinName.__value__)
GROUPS: tuple[GroupName, ...] = get_args(GroupName.__value__)
