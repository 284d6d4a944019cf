"""python benchmarks/attention_peers.py --views 100 --kept 1 0.5 0.25

Times what others have for attention across views, dense and block-sparse, on random bfloat16
inputs: PyTorch's SDPA and FlexAttention, and SpargeAttn where installed. `benchmark_attention.py`
runs it beside ours.
"""

import argparse
import statistics
import timeit
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from typing import Any

type Case = tuple[str, Callable[[int], object]]
"""A name, and what makes so many calls and then waits for all."""

NO_SKIPPING = 1e10
"""SpargeAttn's threshold that leaves no product out, as sparse-vggt sets it."""


def torch_cases(tokens: int, heads: int, width: int, kept: float) -> Iterator[Case]:
    """PyTorch's attention on a GPU, and SpargeAttn's."""
    import torch  # pyright: ignore[reportMissingImports]
    from torch.nn.attention import flex_attention as flex  # pyright: ignore[reportMissingImports]

    x = torch.randn(1, heads, tokens, width, device="cuda", dtype=torch.bfloat16)
    if kept >= 1:
        attend = torch.nn.functional.scaled_dot_product_attention
        yield "torch SDPA", synchronized(partial(attend, x, x, x))
        return
    lists = random_lists(heads, tokens, 128, 64, kept)
    rows, blocks = lists.shape[2], -(-tokens // 64)
    counts = torch.full((1, heads, rows), lists.shape[3], dtype=torch.int32, device="cuda")
    full = torch.zeros(1, heads, rows, blocks, dtype=torch.int32, device="cuda")
    full[..., : lists.shape[3]] = lists
    told = (0 * counts, 0 * full, counts, full)
    mask = flex.BlockMask.from_kv_blocks(*told, BLOCK_SIZE=(128, 64), seq_lengths=(tokens, tokens))
    attend = torch.compile(flex.flex_attention, dynamic=False)
    options = {"block_mask": mask, "kernel_options": {"BLOCK_M": 128, "BLOCK_N": 64}}
    yield "torch FlexAttention", synchronized(partial(attend, x, x, x, **options))
    if find_spec("spas_sage_attn"):
        yield from sparge_cases(x.half(), kept)


def sparge_cases(x: Any, kept: float) -> Iterator[Case]:
    """SpargeAttn on a Hopper GPU, random lists of its own block sizes.

    In int8 and fp8 its kernel for these GPUs; in int8 and float16 the one that sparse-vggt calls,
    with the casts of its fork of SpargeAttn and without.
    """
    import torch  # pyright: ignore[reportMissingImports]
    from spas_sage_attn import (  # pyright: ignore[reportMissingImports]
        _qattn,
        block_sparse_sage2_attn_cuda,
        quant_per_block,
        utils,
    )

    def chosen(block_q: int, block_kv: int) -> Any:
        lists = random_lists(x.shape[1], x.shape[2], block_q, block_kv, kept).long()
        shape = *lists.shape[:3], -(-x.shape[2] // block_kv)
        return torch.zeros(shape, dtype=torch.bool, device="cuda").scatter_(-1, lists, True)

    fast = {"mask_id": chosen(64, 128), "pvthreshd": NO_SKIPPING}
    yield (
        "SpargeAttn int8 fp8",
        synchronized(partial(block_sparse_sage2_attn_cuda, x, x, x, **fast)),
    )
    lists, counts = utils.block_map_lut_triton(chosen(128, 64))
    limit = utils.hyperparameter_check(NO_SKIPPING, x.shape[1], x.device)
    out, scale = torch.empty_like(x), x.shape[-1] ** -0.5
    kernel = _qattn.qk_int8_sv_f16_accum_f16_block_sparse_attn_inst_buf_with_pv_threshold

    def cast() -> tuple[Any, ...]:
        q, q_scale, k, k_scale = quant_per_block.per_block_int8(x, x - x.mean(-2, keepdim=True))
        return q, k, q_scale.squeeze(-1), k_scale.squeeze(-1)

    def attend(q: Any, k: Any, q_scale: Any, k_scale: Any) -> object:
        given = (q, k, x, out, lists, counts, limit, q_scale, k_scale)
        return kernel(*given, 1, 0, 1, scale, 0)

    yield "SpargeAttn int8 f16", synchronized(lambda: attend(*cast()))
    yield "SpargeAttn, kernel alone", synchronized(partial(attend, *cast()))


def random_lists(heads: int, tokens: int, block_q: int, block_kv: int, kept: float) -> Any:
    """As many random key blocks for every query block of every head, in rising order."""
    import torch  # pyright: ignore[reportMissingImports]

    rows, blocks = -(-tokens // block_q), -(-tokens // block_kv)
    draws = torch.rand(1, heads, rows, blocks, device="cuda")
    lists = draws.topk(max(1, round(kept * blocks)), -1).indices
    return lists.sort(-1).values.int()


def synchronized(run: Callable[[], object]) -> Callable[[int], object]:
    import torch  # pyright: ignore[reportMissingImports]

    return lambda calls: ([run() for _ in range(calls)], torch.cuda.synchronize())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--views", type=int, default=100, help="of 1,041 tokens")
    parser.add_argument("--kept", type=float, nargs="+", default=[1.0, 0.5, 0.25, 0.1])
    options = parser.parse_args()
    tokens = 1041 * options.views
    for kept in options.kept:
        for name, run in torch_cases(tokens, 16, 64, kept):
            run(1)
            took = statistics.median(timeit.repeat(partial(run, 4), number=1, repeat=5)) / 4
            rate = 4 * kept * tokens**2 * 16 * 64 / took / 1e12
            print(f"{kept:5.0%} kept  {name:24} {1e3 * took:9.3f} ms {rate:8.1f} TFLOP/s")


if __name__ == "__main__":
    main()
