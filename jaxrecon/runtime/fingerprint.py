"""Words and digests that tell reconstructions apart, the same in every process."""

import ast
import hashlib
import linecache
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, is_dataclass
from functools import partial
from types import CodeType, FunctionType, MethodType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

_HASHERS = 4
"""Threads that read weights and hash them; each holds one leaf on the host."""


def stable_name(value: Any) -> str:
    """What a function or value is, in words that hold no memory address.

    Functions are called by module and qualified name; those made inside others by their definition
    and what they enclose, too. Partials and dataclasses are called by their parts, arrays by a
    digest. Anything else is called by its `repr`.
    """
    if isinstance(value, partial):
        return _listed("partial", value.func, value.args, value.keywords)
    if isinstance(value, MethodType):
        return _listed("method", value.__func__, value.__self__)
    if isinstance(value, FunctionType):
        return _function_name(value)
    if is_dataclass(value) and not isinstance(value, type):
        parts = {each.name: getattr(value, each.name) for each in fields(value) if each.compare}
        return _listed(_full_name(type(value)), parts)
    if isinstance(value, Mapping):
        return _listed("mapping", *sorted((stable_name(key), x) for key, x in value.items()))
    if isinstance(value, frozenset | set):
        return _listed("set", *sorted(map(stable_name, value)))
    if isinstance(value, tuple | list):
        return _listed(type(value).__name__, *value)
    if isinstance(value, jax.Array | np.ndarray):
        return f"array {value.shape} {value.dtype} {_array_digest(value).hex()}"
    return repr(value)


def digest(*values: Any) -> bytes:
    """Tells values apart by their names; 16 bytes."""
    return hashlib.blake2b(stable_name(values).encode(), digest_size=16).digest()


def weights_digest(model: nnx.Module) -> bytes:
    """Tells the weights of models apart: names, shapes, dtypes and numbers of all leaves."""
    leaves = jax.tree_util.tree_leaves_with_path(model)
    whole = hashlib.blake2b(digest_size=16)
    with ThreadPoolExecutor(_HASHERS) as pool:
        digests = pool.map(lambda leaf: _array_digest(leaf[1]), leaves)
        for (keys, leaf), digest in zip(leaves, digests, strict=True):
            whole.update(f"{jax.tree_util.keystr(keys)} {leaf.shape} {leaf.dtype} ".encode())
            whole.update(digest)
    return whole.digest()


def _array_digest(array: Any) -> bytes:
    # A jax.Array keeps the host copy that NumPy asks of it, so the copy is asked of a passing one.
    passing = jnp.copy(array) if isinstance(array, jax.Array) else array
    flat = np.ascontiguousarray(passing).reshape(-1)
    return hashlib.blake2b(flat.view(np.uint8), digest_size=16).digest()


def _listed(what: str, *parts: Any) -> str:
    return f"{what}({', '.join(map(stable_name, parts))})"


def _full_name(value: Any) -> str:
    return f"{value.__module__}.{value.__qualname__}"


def _function_name(function: Callable[..., Any]) -> str:
    """Named functions are found by their names alone; the others need not be."""
    name = f"function {_full_name(function)}"
    if "<" not in name:
        return name
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    enclosed = [each for each in cells if each is not function]
    code = function.__code__
    return _listed(name, _definition(code) or _instructions(code), enclosed, function.__defaults__)


def _definition(code: CodeType) -> str | None:
    """The text that defines a function, free of layout and comments; None if it is in no file.

    Instructions would be others with the next version of Python.
    """
    places = [(line, column) for line, _, column, _ in code.co_positions() if line and column]
    try:
        tree = ast.parse("".join(linecache.getlines(code.co_filename)))
    except (SyntaxError, ValueError):
        return None
    around = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.Lambda)
        and places
        and (node.lineno, node.col_offset) <= places[-1]
        and places[-1] <= (node.end_lineno or 0, node.end_col_offset or 0)
    ]
    # The innermost one begins last.
    inner = max(around, key=lambda node: (node.lineno, node.col_offset), default=None)
    return None if inner is None else ast.unparse(inner)


def _instructions(code: CodeType) -> list[Any]:
    """The instructions, the names that they use, and the constants, functions among them."""
    constants = [_instructions(x) if isinstance(x, CodeType) else x for x in code.co_consts]
    return [code.co_code.hex(), code.co_names, constants]
