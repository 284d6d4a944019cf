"""Where the time of one forward goes on a GPU, by kind of kernel and by kernel.

    python benchmarks/profile_forward.py --model pi3 --views 200 --ratios 0.75 --top 30

Each program of `benchmark_models.py` (released sizes, random weights, bfloat16) runs once, is
timed five times (the median counts), and runs once more under JAX's profiler. Seconds are sums
over the kernels of the first GPU; kernels that run side by side count each. `idle` is when no
kernel ran.
"""

import argparse
import re
import timeit
from collections import defaultdict
from statistics import median

from benchmark_exchange import covered, kernels_of
from benchmark_models import prepared

KINDS = {
    "attention across views": r"attention_forward|attention_mosaic|mosaic_gpu",
    "attention within views": r"fmha|flash|sdpa|cudnn_generated",
    "gathers into the order of patches": r"loop_select",
    "choice of blocks": r"scor|pool|choos|select|sort|topk|radix|compens",
    "matrix products": r"gemm|nvjet|cutlass|matmul|wgrad",
    "convolutions": r"conv|implicit|xmma|nchwToNhwc|nhwcToNchw",
    "norms, residuals, rotations": r"norm|residual|rope|gelu",
    "copies": r"memcpy|memset|copy|transpose|concat",
}
"""Patterns of kernels' names, tried in this order."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--model", default="pi3", help="a released model's name")
    add("--views", type=int, nargs="+", default=[200])
    add("--size", type=int, nargs=2, default=[392, 518], help="height and width")
    add("--ratios", type=float, nargs="+", default=[0.75], help="shares of key blocks to skip")
    add("--ways", nargs="+", default=[], help="policies as well, as `jaxrecon bench` takes them")
    add("--float8", action="store_true", help="blocks multiply 8-bit numbers")
    add("--top", type=int, default=25, help="kernels to list")
    parser.set_defaults(orders=["pca_tree"], offload=False, devices=1)
    options = parser.parse_args()
    for told, _, once in prepared(options):
        once()
        seconds = median(timeit.repeat(once, number=1, repeat=5))
        policy = told["side"] if told["side"] in options.ways else f"{told['ratio']:.0%} skipped"
        print(f"{options.model}, {told['views']} views, {policy}: {seconds:.3f} s", flush=True)
        kernels = kernels_of(once)
        if not kernels:
            raise SystemExit("the profiler saw no kernel")
        table(kernels, options.top)


def table(kernels: list[tuple[str, float, float]], top: int) -> None:
    """Prints the seconds of each kind, and the kernels that take most."""
    by_name: dict[str, list[float]] = defaultdict(list)
    for name, start, end in kernels:
        by_name[name].append(end - start)
    kinds: dict[str, float] = defaultdict(float)
    for name, took in by_name.items():
        kinds[kind_of(name)] += sum(took)
    whole = max(end for *_, end in kernels) - min(start for _, start, _ in kernels)
    kinds["idle"] = whole - covered([(start, end) for _, start, end in kernels])
    for kind, took in sorted(kinds.items(), key=lambda item: -item[1]):
        print(f"  {took:7.3f} s  {took / whole:6.1%}  {kind}")
    print("  seconds   share  calls       each  kernel")
    for name, took in sorted(by_name.items(), key=lambda item: -sum(item[1]))[:top]:
        total = sum(took)
        each = f"{total / len(took) * 1e3:8.3f} ms"
        row = f"  {total:7.3f}  {total / whole:6.1%}  {len(took):5}  {each}"
        print(f"{row}  {kind_of(name)[:12]:12}  {name[:110]}", flush=True)


def kind_of(name: str) -> str:
    """The first kind whose pattern the kernel's name matches."""
    return next((kind for kind, way in KINDS.items() if re.search(way, name, re.I)), "the rest")


if __name__ == "__main__":
    main()
