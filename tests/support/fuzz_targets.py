"""Every parser of files: small sound inputs for it, and how it is called."""

import gzip
import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from PIL import Image
from safetensors.numpy import save_file

from colmap_models import Camera, Model
from colmap_models import Image as ColmapImage
from convert.safetensors_file import TensorSpec
from convert.sources import open_source
from drawn_weights import drawn
from image_files import write_video
from jaxrecon import checkpoint, registry
from jaxrecon.aot.record import read_record
from jaxrecon.cli.query_points import read_query_points
from jaxrecon.cli.report import known_of
from jaxrecon.evaluation import open_dataset
from jaxrecon.formats import read_shown
from jaxrecon.images import PixelTransform, load_images, view_sizes
from jaxrecon.models import Pi3, Pi3Config, ResizeRule
from jaxrecon.nn.dinov2 import DinoV2Config
from jaxrecon.priors import colmap_images, read_sparse_depths, read_view_priors
from jaxrecon.reconstruction import Reconstruction
from jaxrecon.sparse import CalibratedBudgets, read_budgets, write_budgets
from jaxrecon.training import TrainConfig
from jaxrecon.training.log import read_log
from random_recon import random_recon

SIZE = (8, 6)
NAMES = ("x.png", "y.png")
BUDGETS = CalibratedBudgets("toy", "abc", 8, (70, 56), ((0.1, 0.5), (0.25, 1.0)))
RULE = ResizeRule(pixel_limit=14 * 14)
EYE = [[1.0, 0, 0, 0], [0, 1.0, 0, 0], [0, 0, 1.0, 2.0], [0, 0, 0, 1.0]]


@dataclass(frozen=True)
class Target:
    """A parser.

    Attributes:
      name: of the parser.
      write: writes a sound input into an empty folder.
      files: those of the folder that are damaged, by glob patterns.
      read: reads the folder.
      share: how many of the examples it gets, compared with others; slow parsers get fewer.
    """

    name: str
    write: Callable[[Path], object]
    files: str
    read: Callable[[Path], object]
    share: float = 1.0


def _text(name: str, text: str | bytes) -> Callable[[Path], object]:
    data = text.encode() if isinstance(text, str) else text
    return lambda folder: _put(folder / name, data)


def _put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _both(*writers: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda folder: [write(folder) for write in writers]


def _picture(name: str, image: Image.Image | None = None, **options: Any):
    noise = np.random.default_rng(0).integers(0, 256, (SIZE[1], SIZE[0], 3), np.uint8)

    def write(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (image or Image.fromarray(noise)).save(folder / name, **options)

    return write


def _arrays(name: str, **arrays: Any) -> Callable[[Path], object]:
    def write(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(folder / name, **arrays)

    return write


DEPTH = Image.fromarray(np.full((SIZE[1], SIZE[0]), 1500, np.uint16))
POSES = np.array([EYE, EYE])
CAMERA = np.array([[6.0, 0, 3.5], [0, 6, 2.5], [0, 0, 1]])


# Weights and configs

PI3_SMALL = Pi3Config(
    encoder=DinoV2Config(width=16, depth=0, heads=2, registers=0, grid=2),
    heads=2,
    pairs=1,
    registers=0,
    head_width=16,
    head_heads=2,
    head_depth=1,
    point_width=16,
    camera_width=16,
)


def _native(save: Callable[..., None]) -> Callable[[Path], object]:
    def write(folder: Path) -> None:
        header = registry.MODELS["pi3-mini"].header | {"config": asdict(PI3_SMALL)}
        save(drawn(lambda: Pi3(PI3_SMALL, rngs=nnx.Rngs(0))), folder / "native", header)

    return write


def _load(folder: Path) -> object:
    return registry.load(folder / "native")


TENSORS = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros(4, np.float16)}


def _tensors(folder: Path) -> None:
    specs = {name: TensorSpec(x.shape, x.dtype) for name, x in TENSORS.items()}
    header = registry.MODELS["pi3-mini"].header
    checkpoint.write(folder / "native", TENSORS.items(), specs, header, max_shard_bytes=24)


def _same_tensors(folder: Path) -> None:
    """What is read is what was written: damage never gives other numbers."""
    for name, tensor in checkpoint.read_tensors(folder / "native"):
        assert tensor.tobytes() == TENSORS[name].tobytes()


def _same_orbax(folder: Path) -> None:
    abstract = jax.eval_shape(lambda: Pi3(PI3_SMALL, rngs=nnx.Rngs(0)))
    found = checkpoint.flatten(checkpoint.load(folder / "native", abstract))
    sound = checkpoint.flatten(drawn(lambda: Pi3(PI3_SMALL, rngs=nnx.Rngs(0))))
    for path, leaf in sound.items():
        np.testing.assert_array_equal(found[path], leaf)


def _index(folder: Path) -> None:
    for name, array in TENSORS.items():
        save_file({name: array}, folder / f"{name}.safetensors")
    weight_map = {name: f"{name}.safetensors" for name in TENSORS}
    text = json.dumps({"metadata": {"total_size": 32}, "weight_map": weight_map})
    (folder / "model.safetensors.index.json").write_text(text)


def _read_source(folder: Path) -> object:
    source = open_source(folder)
    return [source.read(name) for name in source.specs]


RECORD = {
    "format": "jaxrecon-export",
    "format_version": 1,
    "model": "pi3-mini",
    "views": 2,
    "width": 28,
    "height": 28,
    "options": {
        "intrinsics": "per_view",
        "principal_point": "free",
        "use_quantile": False,
        "strict_edges": False,
        "points": "depth",
        "framed": True,
        "padded": True,
    },
    "min_confidence": 0.1,
    "confidence_quantile": 0.0,
    "rule": "ResizeRule",
    "rule_fields": {"patch": 14, "pixel_limit": 255000},
    "programs": {
        "cpu": {"file": "p.bin", "sha256": "0" * 64, "device_kind": "cpu", "custom_calls": ["a"]}
    },
    "jax_version": "0.11.2",
}
LOG = '{"step": 50, "loss": 1.5, "seconds": 2.0}\n{"step": 100, "loss": 1.0, "seconds": 4.0}\n'

WEIGHTS = (
    Target("checkpoint", _native(checkpoint.save), "native/*", _load, 0.5),
    Target("checkpoint_tensors", _tensors, "native/*", _same_tensors),
    Target(
        "checkpoint_orbax", _native(checkpoint.save_orbax), "native/arrays/**/*", _same_orbax, 0.2
    ),
    Target("safetensors", _index, "*.safetensors", _read_source),
    Target("safetensors_index", _index, "*.index.json", _read_source),
    Target("export_record", _text("export.json", json.dumps(RECORD)), "*.json", read_record),
    Target(
        "train_config",
        _text("c.json", TrainConfig().to_json()),
        "c.json",
        lambda folder: TrainConfig.from_json(folder / "c.json"),
    ),
    Target(
        "train_log", _text("log.jsonl", LOG), "*", lambda folder: read_log(folder / "log.jsonl")
    ),
)

# Reconstructions


def _use(recon: Reconstruction, folder: Path) -> None:
    """What is read is written again, so that nothing is left to fail later."""
    for name in ("out.ply", "out.glb", "out.npz"):
        recon.save(folder / name)


def _streamed(folder: Path) -> None:
    names = []
    for view in range(2):
        recon = random_recon()[[view]]
        recon.save(folder / "views" / f"{view:06d}_a.npz")
        names.append(f"{view:06d}_a.npz")
    notes = {"format": "jaxrecon-views", "version": 1, "digest": "d", "files": names}
    (folder / "views" / "scene.json").write_text(json.dumps(notes))


SCENES = (
    Target(
        "scene_npz",
        lambda folder: random_recon().save(folder / "scene.npz"),
        "scene.npz",
        lambda folder: Reconstruction.load(folder / "scene.npz"),
    ),
    Target(
        "scene_streamed", _streamed, "views/*", lambda folder: Reconstruction.load(folder / "views")
    ),
)

# What the viewer shows


def _shown(name: str, format: str | None = None) -> Target:
    return Target(
        f"shown_{name.replace('.', '_')}",
        lambda folder: random_recon().save(folder / name, format),
        name,
        lambda folder: read_shown(folder / name),
    )


POINTS = """ply
format ascii 1.0
comment points
element vertex 2
property float x
property float y
property double z
property uchar red
property list uchar int others
end_header
0 0 1 7 2 5 5
1 2 3 255 0
"""
LOOSE = (
    _shown("scene.ply"),
    _shown("splats.ply", "splats"),
    _shown("scene.glb"),
    Target(
        "shown_text",
        _text("text.ply", POINTS),
        "text.ply",
        lambda folder: read_shown(folder / "text.ply"),
    ),
    Target(
        "report_summary",
        _text("summary.json", json.dumps({"settings": {"a": 1}, "sparsity": [[0.5]], "files": []})),
        "summary.json",
        known_of,
    ),
)

# Cameras

NERF = {
    "fl_x": 6.0,
    "w": 8,
    "h": 6,
    "k1": 1e-9,
    "camera_model": "OPENCV",
    "frames": [
        {"file_path": name, "depth_file_path": f"d{name}", "transform_matrix": EYE}
        for name in NAMES
    ],
}


def _known(name: str) -> Callable[[Path], object]:
    def read(folder: Path) -> object:
        return read_view_priors(folder / name, NAMES, sizes=[SIZE] * 2)

    return read


COLMAP_CAMERAS = struct.pack("<Q", 1) + struct.pack("<IiQQ4d", 1, 1, *SIZE, 6, 6, 4, 3)
COLMAP_IMAGES = struct.pack("<Q", 2) + b"".join(
    struct.pack("<I7dI", number, 1, 0, 0, 0, 0, 0, float(number), 1)
    + name.encode()
    + b"\0"
    + struct.pack("<Q", 1)
    + struct.pack("<ddq", 1.0, 2.0, 3)
    for number, name in enumerate(NAMES, 1)
)
COLMAP_TEXT = "".join(f"{n} 1 0 0 0 0 0 {n} 1 {name}\n1 2 3\n" for n, name in enumerate(NAMES, 1))


def _colmap(folder: Path) -> object:
    return read_view_priors(folder, NAMES, sizes=[SIZE] * 2), colmap_images(folder)


COLMAP_POINTS = Model(
    tuple(ColmapImage(name, ((1.0, 2.0, 3), (4.0, 2.0, 5), (7.5, 5.5, -1))) for name in NAMES),
    {3: (0.5, 0.5, 1.0), 5: (0.0, 1.0, 2.0)},
    (Camera(SIZE, (6.0, 6.0, 4.0, 3.0)),),
)


def _points(folder: Path) -> object:
    """Of copies of the images, so that places are scaled, and brought to a third size."""
    found = read_sparse_depths(folder, NAMES, sizes=[(16, 12)] * 2)
    return [depth.processed(PixelTransform.stretch((16, 12), (4, 3))) for depth in found.values()]


def _own() -> Reconstruction:
    return random_recon()[:2]


def _own_of(name: str) -> Callable[[Path], object]:
    """Reads a reconstruction as what is known of its photos."""
    sizes = [(24, 16), (120, 40)]
    return lambda folder: read_view_priors(folder / name, _own().names, sizes=sizes)


_COLMAP_PICTURES = _both(*(_picture(f"images/{name}") for name in NAMES))
CAMERAS = (
    Target(
        "nerf",
        _both(
            _text("transforms.json", json.dumps(NERF)),
            *(_picture(f"d{name}", DEPTH) for name in NAMES),
        ),
        "*",
        _known("transforms.json"),
    ),
    Target(
        "colmap_binary",
        _both(
            _text("cameras.bin", COLMAP_CAMERAS),
            _text("images.bin", COLMAP_IMAGES),
            _COLMAP_PICTURES,
        ),
        "*.bin",
        _colmap,
    ),
    Target(
        "colmap_text",
        _both(
            _text("cameras.txt", "# cameras\n1 PINHOLE 8 6 6 6 4 3\n"),
            _text("images.txt", COLMAP_TEXT),
            _COLMAP_PICTURES,
        ),
        "*.txt",
        _colmap,
    ),
    *(
        Target(
            f"colmap_points_{'text' if text else 'binary'}",
            partial(COLMAP_POINTS.write, text=text),
            "*",
            _points,
        )
        for text in (False, True)
    ),
    Target(
        "known_npz",
        _arrays("c.npz", poses=POSES, intrinsics=CAMERA, depths=np.ones((2, 6, 8), np.float32)),
        "c.npz",
        _known("c.npz"),
    ),
    Target(
        "own_npz", lambda folder: _own().save(folder / "scene.npz"), "*.npz", _own_of("scene.npz")
    ),
    Target("own_streamed", _streamed, "views/*", _own_of("views"), 0.5),
    Target(
        "own_colmap",
        lambda folder: _own().save(folder / "colmap/"),
        "colmap/**/*",
        _own_of("colmap"),
    ),
    Target(
        "budgets",
        lambda folder: write_budgets(BUDGETS, folder / "b.json"),
        "b.json",
        lambda folder: read_budgets(folder / "b.json"),
    ),
    Target(
        "query_csv",
        _text("q.csv", "x,y,view\n1,2,0\n3.5,4,1\n"),
        "q.csv",
        lambda folder: read_query_points(folder / "q.csv"),
    ),
    Target(
        "query_npz",
        _arrays("q.npz", x=np.arange(3.0), y=np.arange(3), view=np.zeros(3, np.int32)),
        "q.npz",
        lambda folder: read_query_points(folder / "q.npz"),
    ),
)

# Photos


def _photos(folder: Path) -> object:
    view_sizes(folder)
    return load_images(folder, rule=RULE)


def _one(name: str) -> Callable[[Path], object]:
    return lambda folder: load_images(folder / name, rule=RULE)


def _several(name: str) -> Callable[[Path], object]:
    """Three pictures in one file."""
    pictures = [Image.new("RGB", (14, 14), (80 * number,) * 3) for number in range(3)]
    options = {"save_all": True, "append_images": pictures[1:]}
    return lambda folder: pictures[0].save(folder / name, **options)


def _exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


PHOTOS = (
    Target("png", _picture("a.png", exif=_exif()), "a.png", _photos),
    Target("png_depth", _picture("a.png", DEPTH), "a.png", _photos, 0.3),
    Target("jpeg", _picture("a.jpg", exif=_exif()), "a.jpg", _photos),
    Target("tiff", _picture("a.tif"), "a.tif", _photos),
    Target("tiff_deflate", _picture("a.tif", compression="tiff_deflate"), "a.tif", _photos, 0.3),
    Target("webp", _picture("a.webp"), "a.webp", _photos, 0.5),
    Target("bmp", _picture("a.bmp"), "a.bmp", _photos, 0.5),
    Target("ppm", _picture("a.ppm"), "a.ppm", _photos, 0.5),
    Target("avif", _picture("a.avif"), "a.avif", _photos, 0.3),
    Target("tiff_pages", _several("a.tif"), "a.tif", _one("a.tif"), 0.5),
    Target("png_animation", _several("a.png"), "a.png", _one("a.png"), 0.5),
    Target("webp_animation", _several("a.webp"), "a.webp", _one("a.webp"), 0.5),
    Target("mpo", _several("a.mpo"), "a.mpo", _one("a.mpo"), 0.5),
    Target("video_mp4", lambda folder: write_video(folder / "v.mp4", 3), "v.mp4", _one("v.mp4")),
    Target("video_avi", lambda folder: write_video(folder / "v.avi", 3), "v.avi", _one("v.avi")),
)

# Evaluation sets

CO3D = [
    {
        "sequence_name": "s",
        "frame_number": number,
        "image": {"path": f"apple/{number}.png", "size": [6, 8]},
        "viewpoint": {
            "R": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
            "T": [0, 0, 1],
            "focal_length": [2, 2],
            "principal_point": [0, 0],
        },
    }
    for number in range(2)
]
RE10K = "https://x\n" + "".join(
    f"{t} 0.8 0.9 0.5 0.5 0 0 1 0 0 {t} 0 1 0 0 0 0 1 0\n" for t in (10, 20)
)
TUM = {
    "rgb.txt": "1.0 a.png\n2.0 b.png\n",
    "depth.txt": "1.0 d.png\n2.0 e.png\n",
    "groundtruth.txt": "1.0 0 0 0 0 0 0 1\n2.0 1 0 0 0 0 0 1\n",
}
POSE = "1 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1\n"


def _set(kind: str) -> Callable[[Path], object]:
    return lambda folder: list(open_dataset(kind, folder))


def _pictures_of(*names: str) -> Callable[[Path], object]:
    return _both(*(_picture(name) for name in names))


_CO3D_PICTURES = _pictures_of("apple/0.png", "apple/1.png")
SETS = (
    Target(
        "set_folder",
        _both(
            _pictures_of("images/0.png", "images/1.png"),
            _arrays("c.npz", poses=POSES, intrinsics=CAMERA, depths=np.ones((2, 6, 8))),
        ),
        "**/*",
        _set("folder"),
    ),
    Target(
        "set_folder_colmap",
        _both(
            *(_picture(f"images/{name}") for name in NAMES),
            lambda folder: COLMAP_POINTS.write(folder / "sparse" / "0", text=True),
        ),
        "**/*",
        _set("folder"),
        0.5,
    ),
    Target(
        "set_tum",
        _both(
            *(_text(n, t) for n, t in TUM.items()),
            _pictures_of("a.png", "b.png"),
            _picture("d.png", DEPTH),
            _picture("e.png", DEPTH),
        ),
        "*",
        _set("tum"),
    ),
    Target(
        "set_seven_scenes",
        _both(
            *(_text(f"seq-01/frame-00000{n}.pose.txt", POSE) for n in range(2)),
            *(_picture(f"seq-01/frame-00000{n}.color.png") for n in range(2)),
            *(_picture(f"seq-01/frame-00000{n}.depth.png", DEPTH) for n in range(2)),
            _text("TestSplit.txt", "sequence1\n"),
        ),
        "**/*",
        _set("7scenes"),
    ),
    Target(
        "set_re10k",
        _both(_text("v.txt", RE10K), _pictures_of("v/10.png", "v/20.png")),
        "v.txt",
        _set("re10k"),
    ),
    Target(
        "set_co3d",
        _both(_text("apple/frame_annotations.json", json.dumps(CO3D)), _CO3D_PICTURES),
        "apple/*.json",
        _set("co3d"),
    ),
    Target(
        "set_co3d_packed",
        _both(
            _text("apple/frame_annotations.jgz", gzip.compress(json.dumps(CO3D).encode())),
            _CO3D_PICTURES,
        ),
        "apple/*.jgz",
        _set("co3d"),
        0.5,
    ),
)

TARGETS: Mapping[str, Target] = {
    target.name: target for target in (*WEIGHTS, *SCENES, *LOOSE, *CAMERAS, *PHOTOS, *SETS)
}
