"""How far π³ in float32 and bfloat16 is from upstream's PyTorch code, on one set of weights.

    python benchmarks/agreement_pi3.py model.safetensors --peer path/to/Pi3

Prints percentiles of the relative error of the points in camera coordinates over all pixels of 8
rendered views. `model.safetensors` is upstream's file, `--peer` a checkout of
github.com/yyfz/Pi3; needs an NVIDIA GPU, and PyTorch for the peer.
"""

import argparse
import sys

import numpy as np

PERCENTILES = (1, 10, 25, 50, 75, 90, 99, 99.9)


def main() -> None:
    parser = argparse.ArgumentParser(description="Compares our π³ with upstream's.")
    parser.add_argument("weights", help="upstream's model.safetensors")
    parser.add_argument("--peer", help="checkout of upstream's code; without it only ours runs")
    parser.add_argument("--size", default="518x294", help="width x height of the images")
    options = parser.parse_args()
    width, height = (int(n) for n in options.size.split("x"))

    from jaxrecon.scenes import render_scene

    rendered = np.asarray(render_scene(4, views=8, height=height, width=width).images)
    images = np.round(255 * rendered).astype(np.uint8)
    ours = {name: predict(options.weights, images, name) for name in ("float32", "bfloat16")}
    print(f"{'relative error of points, percentile':42}", *(f"{p:>8}" for p in PERCENTILES))
    report("ours bfloat16 against ours float32", ours["bfloat16"], ours["float32"])
    if options.peer:
        full, half = predict_with_torch(options.weights, images, options.peer)
        report("torch autocast against torch float32", half, full)
        report("ours float32 against torch float32", ours["float32"], full)
        report("ours bfloat16 against torch autocast", ours["bfloat16"], half)


def predict(weights: str, images: np.ndarray, dtype: str) -> np.ndarray:
    """Points in camera coordinates, (V, H, W, 3), by jaxrecon."""
    import jaxrecon

    model = jaxrecon.load("pi3", weights=weights, dtype=dtype)
    longest = max(images.shape[1:3])
    return np.asarray(model.reconstruct(images, resolution=longest).points_camera)


def predict_with_torch(weights: str, images: np.ndarray, peer: str) -> tuple[np.ndarray, ...]:
    """The same by upstream's code: in float32 without TF32, and under bfloat16 autocast."""
    import torch  # pyright: ignore[reportMissingImports]
    from safetensors.torch import load_file

    sys.path.insert(0, peer)
    from pi3.models.pi3 import Pi3  # pyright: ignore[reportMissingImports]

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    with torch.device("cuda"):
        model = Pi3().eval()
    model.load_state_dict(load_file(weights, device="cuda"))
    pixels = torch.tensor(images, device="cuda").permute(0, 3, 1, 2)[None].float() / 255
    with torch.no_grad():
        full = model(pixels)["local_points"]
        with torch.amp.autocast("cuda", dtype=torch.bfloat16):
            half = model(pixels)["local_points"]
    return full[0].float().cpu().numpy(), half[0].float().cpu().numpy()


def report(what: str, found: np.ndarray, expected: np.ndarray) -> None:
    gap = np.linalg.norm(found - expected, axis=-1) / np.linalg.norm(expected, axis=-1)
    print(f"{what:42}", *(f"{value:8.1e}" for value in np.percentile(gap, PERCENTILES)))


if __name__ == "__main__":
    main()
