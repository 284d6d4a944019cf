"""What a program in a file may hold, read in a process of its own before anything of it is used.

A damaged program can keep MLIR's reader busy for ever or crash it, and a custom call runs whatever
native function of the process it names. So `python program_check.py PLATFORM < program` reads the
program, lowers it to HLO and walks through its operations; nothing is compiled or run. This file
imports nothing of the package, so that the process starts fast.
"""

import json
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

KERNEL_CALLS = ("mosaic_gpu_v2", "__gpu$xla.gpu.triton", "__cudnn$fmhaSoftmax")
"""Custom calls of our kernels and of cuDNN's attention, for which JAX promises no stability."""

SECONDS = 8
"""Of processor time that a check may take; the largest programs need two or three."""
MEMORY = 16 * 2**30
"""Bytes of address space that it may take."""

_FOUND = "jaxrecon-program: "
_CALLING = {
    "api_version",
    "call_target_name",
    "kernel_name",
    "operand_layouts",
    "result_layouts",
    "output_operand_aliases",
    "sdy.sharding_rule",
}
_TYPED_ABI = ("1 : i32", "4 : i32")
"""1, the default, is 4 wherever the configuration is no text."""


def found(verdict: dict[str, Any]) -> str:
    """The line that the process writes: `calls`, or why the program is refused or unreadable."""
    return _FOUND + json.dumps(verdict)


def verdict_of(output: str) -> dict[str, Any] | None:
    """What the process wrote; None if it did not come to an end."""
    lines = [line for line in output.splitlines() if line.startswith(_FOUND)]
    return json.loads(lines[-1].removeprefix(_FOUND)) if lines else None


# Custom calls


def _types(values: Any) -> list[str]:
    return [str(value.type) for value in values]


def _config(operation: Any) -> str:
    """What a call is configured with."""
    return " ".join(
        str(operation.attributes[name])
        for name in ("backend_config", "mhlo.backend_config")
        if name in operation.attributes and str(operation.attributes[name]) != '""'
    )


def _is_typed(operation: Any) -> bool:
    """Whether a function is called through XLA's typed interface, and not as bare C."""
    given = "api_version" in operation.attributes
    return not given or str(operation.attributes["api_version"]) in _TYPED_ABI


def _decomposes(config: str) -> Callable[[Any], bool]:
    """Singular values of 3x3 matrices; a wrong shape or mode would write beyond the results."""

    def fits(operation: Any) -> bool:
        taken = _types(operation.operands)
        matrices = re.fullmatch(r"tensor<((?:\d+x)*)3x3xf32>", taken[0] if taken else "")
        known = _config(operation) == config and _is_typed(operation)
        if matrices is None or len(taken) != 1 or not known:
            return False
        batch = matrices[1]
        square, singular = f"tensor<{batch}3x3xf32>", f"tensor<{batch}3xf32>"
        expected = [square, singular, square, square, f"tensor<{batch}i32>"]
        return _types(operation.results) == expected

    return fits


def _places(operation: Any) -> bool:
    """Where features wait: one value in, the same out."""
    return _types(operation.operands) == _types(operation.results) and not _config(operation)


def _factors(operands: int, results: int) -> Callable[[Any], bool]:
    """XLA's own functions for TPUs; it checks their shapes."""

    def fits(operation: Any) -> bool:
        return len(operation.operands) == operands and len(operation.results) == results

    return fits


def _is_kernel(operation: Any) -> bool:
    """Machine code or MLIR of a kernel: nothing about it can be checked."""
    return bool(_config(operation))


_KERNELS = {name: _is_kernel for name in KERNEL_CALLS}
CALLS: dict[str, dict[str, Callable[[Any], bool]]] = {
    "cpu": {"lapack_sgesdd_ffi": _decomposes("{mode = 83 : ui8}")},
    "cuda": {
        "cusolver_gesvdj_ffi": _decomposes("{compute_uv = true, full_matrices = true}"),
        "annotate_device_placement": _places,
        **_KERNELS,
    },
    "tpu": {
        "Eigh": _factors(1, 2),
        "Qr": _factors(1, 2),
        "ProductOfElementaryHouseholderReflectors": _factors(2, 1),
        "annotate_device_placement": _places,
        "tpu_custom_call": _is_kernel,
    },
}
"""All that programs may call beside XLA's own operations, and what each call must look like."""

_FRONTEND = {"num_batch_dims", "_xla_buffer_placement", "kernel_metadata"}


def _has_known_attributes(operation: Any) -> bool:
    """Whether a call has no attribute that changes what or how it calls."""
    for name in _names(operation.attributes):
        value = operation.attributes[name]
        if name == "has_side_effect":
            fits = call_target(operation) == "annotate_device_placement"
        elif name == "mhlo.frontend_attributes":
            fits = _names(value) <= _FRONTEND
        else:
            fits = name in _CALLING or name.endswith("backend_config")
        if not fits:
            return False
    return True


def _names(attributes: Any) -> set[str]:
    return {each if isinstance(each, str) else each.name for each in attributes}


def call_target(operation: Any) -> str:
    """The native function that a custom call names."""
    return operation.attributes["call_target_name"].value_bytes.decode("utf-8", "backslashreplace")


# Operations

_MATHS = """abs add and atan2 cbrt ceil clamp compare complex convert cosine count_leading_zeros
divide exponential exponential_minus_one floor imag is_finite log log_plus_one logistic maximum
minimum multiply negate not or popcnt power real reduce_precision remainder round_nearest_afz
round_nearest_even rsqrt select shift_left shift_right_arithmetic shift_right_logical sign sine sqrt
subtract tan tanh xor"""
_ARRAYS = """bitcast_convert broadcast_in_dim cholesky concatenate constant convolution dot_general
dynamic_slice dynamic_update_slice fft gather get_dimension_size iota optimization_barrier pad
reduce reduce_window reshape reverse rng_bit_generator scatter select_and_scatter slice sort
transpose triangular_solve"""
_CONTROL = "case composite custom_call if return while"
OPERATIONS = {
    "builtin.module",
    "func.func",
    "func.call",
    "func.return",
    *(f"stablehlo.{name}" for name in f"{_MATHS} {_ARRAYS} {_CONTROL}".split()),
}
"""Those that compute. What talks to the host or to other devices (infeed, send, all_reduce) and
whatever is not known is left out."""

_COMPOSITES = """acos acosh asin asinh atan atanh bessel_i1e cosh digamma erf erf_inv erfc lgamma
scan sinh square tan top_k"""
COMPOSITES = {f"chlo.{name}" for name in _COMPOSITES.split()}
"""Functions that XLA may have instructions of its own for."""


def operations(root: Any) -> Iterator[Any]:
    """All operations of a module (`ir.Operation`), of functions and regions inside it too."""
    waiting = [root]
    while waiting:
        operation = waiting.pop().operation
        yield operation
        waiting.extend(inner for region in operation.regions for block in region for inner in block)


def custom_calls(module: Any) -> tuple[str, ...]:
    """What a module (`ir.Module`) calls beside XLA's own operations."""
    calls = (each for each in operations(module) if each.name == "stablehlo.custom_call")
    return tuple(sorted({call_target(call) for call in calls}))


def refusal(module: Any, platform: str) -> str | None:
    """Why a module (`ir.Module`) is not run: the first thing in it that no program of ours has."""
    allowed = CALLS[platform]
    for operation in operations(module):
        if operation.name not in OPERATIONS:
            return f"it holds the operation {operation.name}"
        if operation.name == "stablehlo.composite":
            name = operation.attributes["name"].value_bytes.decode("utf-8", "backslashreplace")
            if name not in COMPOSITES:
                return f"it holds the composite operation {name!r}"
        if operation.name == "stablehlo.custom_call":
            target = call_target(operation)
            if target not in allowed:
                return f"it calls {target!r}"
            if not _has_known_attributes(operation) or not allowed[target](operation):
                return f"it calls {target!r} in a way of its own"
    return None


def header_refusal(exported: Any, platform: str) -> str | None:
    """Why a program (`jax.export.Exported`) is not run: what it says of itself."""
    from jax import export

    least = export.minimum_supported_calling_convention_version
    most = export.maximum_supported_calling_convention_version
    avals = (*exported.in_avals, *exported.out_avals)
    shardings = (*exported.in_shardings_jax(None), *exported.out_shardings_jax(None))
    disabled = {check.is_custom_call() for check in exported.disabled_safety_checks}
    kept = exported.module_kept_var_idx
    wrong = {
        f"it is for {', '.join(exported.platforms)}": exported.platforms != (platform,),
        f"it runs on {exported.nr_devices} devices": exported.nr_devices != 1,
        "it has effects": exported.ordered_effects or exported.unordered_effects,
        "its shapes are open": exported.uses_global_constants
        or not all(type(side) is int for aval in avals for side in aval.shape),
        "its arrays are sharded over devices": any(each is not None for each in shardings),
        "it brings a gradient": exported.has_vjp(),
        "it turns checks off": not disabled <= set(KERNEL_CALLS),
        "its name is none": not exported.fun_name.isidentifier(),
        "its arguments are mixed up": list(kept) != sorted(set(kept))
        or not set(kept) <= set(range(len(exported.in_avals))),
        f"its calling convention is {exported.calling_convention_version}": not least
        <= exported.calling_convention_version
        <= most,
    }
    return next((reason for reason, is_wrong in wrong.items() if is_wrong), None)


def lowered(exported: Any, platform: str) -> Any:
    """The program (`jax.stages.Lowered`) with arguments of the shapes that it declares."""
    import jax

    shapes = [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in exported.in_avals]
    arguments, keywords = jax.tree.unflatten(exported.in_tree, shapes)
    traced = jax.jit(exported.call).trace(*arguments, **keywords)
    return traced.lower(lowering_platforms=(platform,))


def checked(data: bytes, platform: str) -> dict[str, Any]:
    """What there is to say of a program's bytes, for `found`."""
    from jax.export import deserialize

    try:
        exported = deserialize(bytearray(data))
        refused = header_refusal(exported, platform)
        if refused is not None:
            return {"refused": refused}
        program = lowered(exported, platform)
        module = program.compiler_ir("stablehlo")
        refused = refusal(module, platform)
        if refused is not None:
            return {"refused": refused}
        program.compiler_ir("hlo")
        return {"calls": custom_calls(module)}
    except Exception as error:
        return {"unreadable": type(error).__name__}


def _limit() -> None:
    """Ends this process where reading does not end; not on Windows."""
    try:
        import resource
    except ImportError:
        return
    for kind, most in ((resource.RLIMIT_CPU, SECONDS), (resource.RLIMIT_AS, MEMORY)):
        hard = resource.getrlimit(kind)[1]
        soft = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (soft, hard))


if __name__ == "__main__":
    _limit()
    sys.stdout.write(found(checked(sys.stdin.buffer.read(), sys.argv[1])) + "\n")
