"""Attention policies as the benchmarks' command lines name them.

A way of skipping is POLICY[:FIELD=VALUE[,FIELD=VALUE...]][@LAYERS]:

- a ratio, or one a layer, with fields of `SparseAttention`: `0.75:order=hilbert`,
  `(0.9,0.75,0.55,0.8)`, `None:cdf_threshold=0.9`;
- `within_views`, `key_views=8` or `every=4`: the selectors that go by views, with such fields too,
  as `key_views=8:compensation_q=4`;
- `dense`.

Global layers behind an @ attend within views, and the policy is that of the others: `dense@0-1`,
`0.75@0`, `key_views=8@0-1`.
"""

import ast
from typing import Any

from jaxrecon import SparseAttention
from jaxrecon.cli.common import layers as numbers
from jaxrecon.nn.attention import AttentionFn
from jaxrecon.sparse import KeyViews, WithinViews, within_views_in


def parsed(way: str) -> AttentionFn | None:
    """The policy that a way of skipping names."""
    policy, _, layers = way.partition("@")
    attention = None if policy == "dense" else sparse(policy)
    return within_views_in(numbers(layers), attention) if layers else attention


def sparse(policy: str) -> SparseAttention:
    """Block-sparse attention by a ratio or by views."""
    name, _, rest = policy.partition(":")
    fields: dict[str, Any] = {}
    for field in filter(None, rest.split(",")):
        key, _, value = field.partition("=")
        fields[key] = value if value.isalpha() else ast.literal_eval(value)
    kind, _, number = name.partition("=")
    if kind == "within_views":
        fields["selector"] = WithinViews()
    elif kind == "key_views":
        fields["selector"] = KeyViews(count=int(number))
    elif kind == "every":
        fields["selector"] = KeyViews(every=int(number))
    else:
        fields = {"sparse_ratio": ast.literal_eval(name), "cdf_threshold": None} | fields
    return SparseAttention(**fields)
