"""The command line: `jaxrecon reconstruct | convert | view | models`."""

import argparse
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jaxrecon.errors import InputError, JaxreconError
from jaxrecon.files import check_output_folder, replacing_folder
from jaxrecon.progress import Stages

if TYPE_CHECKING:
    from jaxrecon.reconstruction import Reconstruction

FILES = {
    "ply": "scene.ply",
    "glb": "scene.glb",
    "npz": "scene.npz",
    "colmap": "colmap/",
    "pictures": "pictures/",
}
"""What `reconstruct` can write, and under which name in the output folder."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code: 0, or 2 after a one-line error."""
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except JaxreconError as error:
        sys.stderr.write(f"jaxrecon: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("jaxrecon: interrupted\n")
        return 130


def reconstruct(options: argparse.Namespace) -> int:
    """`jaxrecon reconstruct photos/ -m pi3 -o out/`."""
    formats = _formats(options.formats)
    check_output_folder(options.output, overwrite=options.overwrite)

    import jax

    from jaxrecon import registry
    from jaxrecon.hub import cache_folder
    from jaxrecon.images import check_source

    images = options.images if len(options.images) > 1 else options.images[0]
    check_source(images, stride=options.stride)
    jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "xla"))
    stages = Stages(quiet=options.quiet)
    pipeline = registry.load(
        options.model,
        weights=options.weights,
        dtype=options.dtype,
        attention=options.attention,
        revision=options.revision,
        stages=stages,
    )
    recon = pipeline.reconstruct(
        images,
        resolution=options.resolution,
        stride=options.stride,
        min_confidence=options.min_confidence,
        confidence_quantile=options.confidence_quantile,
        edge_rtol=None if options.keep_edges else options.edge_rtol,
        intrinsics="shared" if options.shared_intrinsics else "per_view",
        principal_point="centre" if options.centre_principal_point else "free",
        stages=stages,
    )
    summary = _write(recon, options, formats, stages)
    _report(options, summary)
    return 0


def convert(options: argparse.Namespace) -> int:
    """`jaxrecon convert pi3 model.safetensors -o pi3/`."""
    check_output_folder(options.output, overwrite=options.overwrite)
    from jaxrecon import registry

    entry = registry.model_entry(options.model)
    stages = Stages(quiet=options.quiet)
    with stages.stage("convert"):
        registry.convert_weights(
            entry, options.weights, options.output, overwrite=options.overwrite
        )
    stages.note(f"weights of {entry.name}: {entry.weights_licence}")
    summary = {"model": entry.name, "output": options.output, "seconds": _seconds(stages)}
    _report(options, summary)
    return 0


def view(options: argparse.Namespace) -> int:
    """`jaxrecon view out/scene.npz`."""
    from jaxrecon.reconstruction import Reconstruction

    recon = Reconstruction.load(options.scene)
    server = recon.view(port=options.port)
    sys.stdout.write(f"showing {options.scene} at http://localhost:{server.get_port()}\n")
    sys.stdout.flush()
    if not options.once:
        server.sleep_forever()
    server.stop()
    return 0


def models(options: argparse.Namespace) -> int:
    """`jaxrecon models`."""
    from jaxrecon import checkpoint, registry

    rows = [
        {
            "name": entry.name,
            "parameters": entry.parameters,
            "repo": entry.repo,
            "weights_licence": entry.weights_licence,
            "code_licence": entry.code_licence,
            "paper": entry.paper,
            "converted": checkpoint.is_native(registry.cached_folder(entry)),
        }
        for entry in registry.MODELS.values()
    ]
    if options.json:
        sys.stdout.write(json.dumps(rows, indent=2) + "\n")
        return 0
    for row in rows:
        here = "here" if row["converted"] else "not fetched"
        sys.stdout.write(
            f"{row['name']:12} {row['parameters'] / 1e6:7.1f} M  {here:11}  {row['repo']}  "
            f"weights: {row['weights_licence']}  {row['paper']}\n"
        )
    return 0


def _write(
    recon: "Reconstruction", options: argparse.Namespace, formats: Sequence[str], stages: Stages
) -> dict[str, Any]:
    """Writes the whole output folder under a temporary name, then renames it."""
    with replacing_folder(options.output, overwrite=options.overwrite) as folder:
        with stages.stage("export", total=len(formats)) as done:
            recon = recon.numpy()
            for name in formats:
                if name == "pictures":
                    recon.save_pictures(folder / FILES[name])
                else:
                    recon.save(f"{folder}/{FILES[name]}")
                done()
        summary = _summary(recon, options, formats, stages)
        (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    return summary


def _summary(
    recon: "Reconstruction", options: argparse.Namespace, formats: Sequence[str], stages: Stages
) -> dict[str, Any]:
    import jax

    views, height, width = recon.mask.shape
    return {
        "model": recon.model,
        "device": jax.devices()[0].device_kind,
        "views": views,
        "width": width,
        "height": height,
        "points": int(recon.mask.sum()),
        "output": options.output,
        "files": [FILES[name] for name in formats] + ["summary.json"],
        "seconds": _seconds(stages),
    }


def _seconds(stages: Stages) -> dict[str, float]:
    return {name: round(took, 3) for name, took in stages.seconds.items()}


def _report(options: argparse.Namespace, summary: dict[str, Any]) -> None:
    if options.json:
        sys.stdout.write(json.dumps(summary) + "\n")
    elif not options.quiet:
        sys.stdout.write(f"wrote {options.output}\n")


def _formats(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in FILES]
    if unknown or not names:
        found = ", ".join(unknown) or "nothing"
        raise InputError(f"--formats: found {found}; choose from {', '.join(FILES)}")
    return list(dict.fromkeys(names))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="jaxrecon", description="Photos in, cameras and a point cloud out."
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    _add_reconstruct(commands)
    _add_convert(commands)
    viewing = commands.add_parser("view", help="show a reconstruction in the browser")
    viewing.add_argument("scene", help="the .npz file of a reconstruction")
    viewing.add_argument("--port", type=int, default=8080, help="where to serve")
    viewing.add_argument("--once", action="store_true", help="stop as soon as it is served")
    viewing.set_defaults(run=view)
    listing = commands.add_parser("models", help="list the models that can be loaded")
    listing.add_argument("--json", action="store_true", help="as JSON")
    listing.set_defaults(run=models)
    return parser


def _add_reconstruct(commands: Any) -> None:
    parser = commands.add_parser("reconstruct", help="photos to cameras and a point cloud")
    add = parser.add_argument
    add("images", nargs="+", help="a folder, photos, a quoted glob pattern, or a video")
    add("-m", "--model", default="pi3", help="a model's name, checkpoint folder or weight file")
    add("-o", "--output", required=True, help="folder to write")
    add("--weights", help="checkpoint folder or upstream weight file for a named model")
    add("--revision", help="revision of the upstream repository")
    add("--resolution", type=int, help="longest side of the processed images, in pixels")
    add("--stride", type=int, default=1, help="take every n-th image or video frame")
    add("--formats", default="ply,glb,npz,colmap", help=f"comma-separated: {', '.join(FILES)}")
    add("--min-confidence", type=float, default=0.1, help="drop less confident points")
    add("--confidence-quantile", type=float, default=0.0, help="drop this share of the points")
    add("--edge-rtol", type=float, default=0.03, help="relative depth jump that makes an edge")
    add("--keep-edges", action="store_true", help="keep points on depth edges")
    add("--shared-intrinsics", action="store_true", help="one camera for all views")
    add("--centre-principal-point", action="store_true", help="hold it at the image's centre")
    add("--dtype", choices=("float32", "bfloat16"), help="default: bfloat16 on GPU and TPU")
    add("--attention", choices=("dense", "cudnn", "xla"), default="dense", help="backend")
    _add_common(parser)
    parser.set_defaults(run=reconstruct)


def _add_convert(commands: Any) -> None:
    parser = commands.add_parser("convert", help="upstream weights to a native checkpoint")
    parser.add_argument("model", help="name of the model, such as pi3")
    parser.add_argument("weights", help="upstream file: .safetensors, its index, .pt or .pth")
    parser.add_argument("-o", "--output", required=True, help="folder to write")
    _add_common(parser)
    parser.set_defaults(run=convert)


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--overwrite", action="store_true", help="replace an existing folder")
    parser.add_argument("-q", "--quiet", action="store_true", help="show no progress")
    parser.add_argument("--json", action="store_true", help="print a summary as JSON")
