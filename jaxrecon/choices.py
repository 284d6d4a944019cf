"""Names that users choose by, once for the library, its messages and the command line.

The command line lists them without importing JAX.
"""

from typing import Literal, get_args

type AttentionName = Literal["auto", "fast", "sparse", "dense", "mosaic_gpu", "cudnn", "xla"]
"""How to attend: a policy, or one of the backends of dense attention."""

type OrderName = Literal["pca_tree", "raster", "hilbert"]
"""In which order the patches of a scene are cut into blocks; see `jaxrecon.sparse.orders`."""

ATTENTIONS: tuple[AttentionName, ...] = get_args(AttentionName.__value__)
ORDERS: tuple[OrderName, ...] = get_args(OrderName.__value__)
