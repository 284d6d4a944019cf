"""Golden cases of other sizes, names and pictures than ours are read by their own manifests."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import golden_data
from golden_configs import mapanything_config, pi3_config, pi3x_config, vggt_config
from golden_data import Golden, stored_stride
from golden_images import as_upstream, assert_pi3_pixels, assert_pi3_sizes, assert_vggt_pixels
from image_files import noise
from jaxrecon.images import load_images
from jaxrecon.models import PI3_RESIZE, PI3X, VGGT_RESIZE, ResizeRule, SideRule
from mapanything_stages import MAPANYTHING_TINY, MAPANYTHING_V1_TINY
from pi3x_stages import PI3X_TINY
from places import ROOT, fresh_process
from tiny_models import PI3_TINY
from vggt_stages import VGGT_TINY


@pytest.mark.parametrize(
    ("config_of", "name", "expected"),
    [
        (pi3_config, "pi3_tiny_84x42_n2_b2", PI3_TINY),
        (pi3_config, "sparse_pi3_tiny_98x126_n10_r0.5_c0.9_hilbert", PI3_TINY),
        (pi3x_config, "pi3x_tiny_84x42_n2_b2_mm", PI3X_TINY),
        (vggt_config, "vggt_tiny_84x42_n2_b2", VGGT_TINY),
        (vggt_config, "sparse_vggt_tiny_98x126_n10_r0.5_cNone_raster", VGGT_TINY),
        (mapanything_config, "mapanything_v11_tiny_84x42_v2_b2_partial", MAPANYTHING_TINY),
        (mapanything_config, "mapanything_v1_tiny_56x70_v3_b1_img", MAPANYTHING_V1_TINY),
    ],
)
def test_sizes_of_models_are_the_manifests(config_of: Any, name: str, expected: Any) -> None:
    assert config_of(golden_data.case(name)) == expected


def test_a_model_without_small_sizes_is_the_released_one(tmp_path: Path) -> None:
    manifest = tmp_path / "released.json"
    manifest.write_text(json.dumps({"config": {"released": "yyfz233/Pi3X", "dim": 1024}}))
    assert pi3x_config(Golden(manifest)) == PI3X


def test_strides() -> None:
    assert stored_stride([392, 630], [33, 53]) == 12
    assert stored_stride([56, 98], [56, 98]) == 1
    assert stored_stride([620], [124]) == 5


def written(folder: Path, name: str, arch: str, **told: Any) -> Golden:
    """A case of preprocessing; `pixels` of each scene are stored with the stride beside them."""
    arrays = {f"in.{key}": value for key, value in told.pop("inputs").items()}
    outputs, shapes = {}, {}
    for key, (scene, pixels, stride) in told.pop("scenes").items():
        whole = as_upstream(pixels)
        stored = np.ascontiguousarray(whole[..., ::stride, ::stride])
        arrays[f"out.{key}"], shapes[scene] = stored, list(whole.shape)
        outputs[key] = {"stored_shape": list(stored.shape)}
    save_file(arrays, folder / f"{name}.safetensors")
    manifest = {"family": "preprocess", "arch": arch, "shapes": shapes, "outputs": outputs}
    (folder / f"{name}.json").write_text(json.dumps(manifest | told))
    return Golden(folder / f"{name}.json")


@pytest.fixture
def pictures() -> dict[str, np.ndarray]:
    sizes = {"q": (40, 60), "r": (60, 40), "s": (33, 77)}
    return {f"png_{letter}": noise(*size) for letter, size in sizes.items()}


def test_other_pictures_for_pi3(tmp_path: Path, pictures: dict[str, np.ndarray]) -> None:
    every = list(pictures.values())
    small = load_images(every, rule=ResizeRule(pixel_limit=9000)).pixels
    whole = load_images(every[::2], rule=PI3_RESIZE).pixels
    golden = written(
        tmp_path,
        "prep_of_others",
        "pi3 load_images_as_tensor",
        inputs=pictures,
        scenes={
            "limit_9000": ("limit_9000", small, 3),
            "default_limit_interval2": ("default_limit_interval2", whole, 7),
        },
        size_table=[{"W": 60, "H": 40, "limit": 9000, "out_HW": list(small.shape[1:3])}],
    )
    (tmp_path / "pictures").mkdir()
    assert_pi3_sizes(golden)
    assert_pi3_pixels(golden, tmp_path / "pictures")


def test_other_pictures_for_vggt(tmp_path: Path, pictures: dict[str, np.ndarray]) -> None:
    alone = load_images(pictures["png_s"], rule=VGGT_RESIZE).pixels
    padded = load_images(list(pictures.values()), rule=SideRule(pad=True)).pixels
    golden = written(
        tmp_path,
        "others",
        "vggt load_and_preprocess_images",
        inputs=pictures,
        scenes={"crop_s": ("crop:s", alone, 5), "pad_list": ("pad:qrs", padded, 9)},
        size_table=[],
    )
    assert_vggt_pixels(golden, tmp_path)


@pytest.mark.thorough
def test_a_folder_that_is_given_is_honoured(
    tmp_path: Path, pictures: dict[str, np.ndarray]
) -> None:
    """By the tests of images too; those for which it has no case are skipped."""
    scenes = {"limit_900": ("limit_900", load_images(pictures["png_q"], rule=PI3_RESIZE).pixels, 1)}
    written(tmp_path, "mine", "pi3 it", inputs=pictures, scenes=scenes, size_table=[])
    listed = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "--collect-only", "-q", "--golden", str(tmp_path)),
            *("tests/parity/test_images.py", "tests/parity/test_vggt_images.py", "-k", "upstreams"),
        ],
        capture_output=True,
        text=True,
        env=fresh_process(),
        cwd=ROOT,
        check=False,
    )
    names = [line.split("::")[-1] for line in listed.stdout.splitlines() if "::" in line]
    told = {name for name in names if "NOTSET" not in name}
    assert told == {"test_sizes_are_upstreams[mine]", "test_pixels_are_upstreams[mine]"}, listed
