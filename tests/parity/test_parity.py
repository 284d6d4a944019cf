"""Every stage of every golden case against the numbers of the original PyTorch code."""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import golden_data
from convert.engine import plan, stream
from convert.pi3 import IGNORED, RULES
from drawn_weights import drawn
from golden_configs import pi3_config
from golden_data import Golden, state_dict
from jaxrecon import checkpoint, geometry
from jaxrecon.models.pi3.model import PI3, Pi3Config
from jaxrecon.models.pi3x.conditioning import CameraFrames
from jaxrecon.models.pi3x.heads import placed
from jaxrecon.nn.dinov2 import DINOV2_LARGE, IMAGE_MEAN, IMAGE_STD, DinoV2, DinoV2Config
from jaxrecon.nn.dpt import resize_bilinear
from jaxrecon.nn.rope import apply_rotary, rotary_table
from jaxrecon.registry import PI3_FAMILY
from jaxrecon.registry.entries import _built
from mapanything_stages import check_mapanything
from one_program import one_program
from pi3_stages import build_pi3, pi3_stages
from pi3x_stages import check_pi3x
from sparse_cases import (
    check_masks,
    check_sparse_attention,
    check_sparse_vggt,
    policy_of,
    stored_order,
    walk,
)
from tiny_models import PI3_TINY, TINY_STATE
from upstream_state import InMemory
from vggt_stages import channels_first, channels_last, check_vggt

ELSEWHERE = {
    ("preprocess", "pi3"): "checked in test_images.py",
    ("preprocess", "vggt"): "checked in test_vggt_images.py",
    ("preprocess", "mapanything"): "checked in test_mapanything_images.py",
    ("postprocess", "mapanything"): "checked in test_mapanything.py",
}
"""Why a case is skipped, by its family and how the name of what it ran begins."""


def check_pi3(golden: Golden) -> None:
    """Stage by stage, then the whole forward in one go."""
    model = build_pi3(pi3_config(golden), golden.weights())
    images = channels_last(golden.inputs()["images"])
    stages = jax.jit(pi3_stages)(model, images)
    whole = jax.jit(lambda m, x: m(x))(model, images)
    stages |= {"points": whole.points_world, "camera_poses": whole.world_from_camera}
    for key, expected in golden.outputs().items():
        golden.check(key, np.asarray(stages[key]), expected)
    np.testing.assert_array_equal(whole.points_camera, stages["local_points"])
    logits = np.asarray(stages["conf"], np.float64)[..., 0]
    np.testing.assert_allclose(whole.confidence, 1 / (1 + np.exp(-logits)), rtol=1e-5)


def check_sparse_pi3(golden: Golden) -> None:
    """Layer by layer with the masks bit for bit, then the whole forward as one program."""
    expected, sparse = golden.outputs(), policy_of(golden)
    model = build_pi3(pi3_config(golden), golden.weights())
    images = channels_last(golden.inputs()["images_u8"] / np.float32(255))
    layout = model.layout(images.shape)
    rope = model.rope(layout, model.config.trunk_block)
    tokens = jax.jit(lambda m, x: m.tokens(x))(model, images)
    pairs = walk(model.trunk, tokens, layout, sparse, rope)
    for key, value in (("attn", pairs[0].attended), ("global", pairs[0].out)):
        name = f"dec_block1_{key}"
        golden.check(name, stored_order(value, layout, sparse), expected[name])
    check_masks(pairs, layout, sparse, expected)
    features = np.concatenate([pairs[-1].framed, pairs[-1].out], axis=-1)
    flat = features.reshape(-1, *features.shape[2:])
    golden.check("dec_concat", flat, expected["dec_concat"])
    whole = jax.jit(lambda m, x: m(x, attention=sparse))(model, images)
    assert whole.confidence_logits is not None
    golden.check("conf", np.asarray(whole.confidence_logits)[..., None], expected["conf"])
    golden.check("points", np.asarray(whole.points_world), expected["points"])
    golden.check("camera_poses", np.asarray(whole.world_from_camera), expected["camera_poses"])


def check_encoder(golden: Golden) -> None:
    """Released encoder: resampled position tables and encoder tokens."""
    outputs, inputs = golden.outputs(), golden.inputs()
    model = build_encoder(golden)
    images = {
        x.shape[-2:]: x / np.float32(255) if name.endswith("_u8") else x
        for name, x in inputs.items()
    }
    for key, expected in outputs.items():
        height, width = (int(n) for n in key.rsplit("_", 1)[1].split("x"))
        if key.startswith("pos_embed"):
            actual = model.position_table((height // 14, width // 14))[None]
        else:
            image = images[height, width]
            normalised = (channels_last(image) - jnp.array(IMAGE_MEAN)) / jnp.array(IMAGE_STD)
            actual = jax.jit(lambda m, x: m(x))(model, normalised)
        golden.check(key, np.asarray(actual), expected)


def build_encoder(golden: Golden) -> Any:
    """The encoder alone of the released model."""
    prefix = "encoder."
    abstract = PI3_FAMILY.abstract(PI3).encoder
    targets = {prefix + k: v for k, v in checkpoint.shapes(abstract).items()}
    source = InMemory(golden.weights(prefix))
    tensors = stream(plan(source.specs, RULES, IGNORED, targets), source)
    return checkpoint.restore(abstract, ((k.removeprefix(prefix), v) for k, v in tensors))


def check_postprocessing(golden: Golden) -> None:
    """Edges, normals, intrinsics and rotations of upstream's geometry utilities."""
    given, expected = golden.inputs(), golden.outputs()
    found = one_program(pi3_postprocessing)(given | {"normals": expected["normals"]})
    edges = {key: value for key, value in found.items() if key.startswith("edge_")}
    for key, value in edges.items():
        clear = ~expected[f"{key}_ambiguous"].astype(bool)
        np.testing.assert_array_equal(value[clear], expected[key].astype(bool)[clear])
    for key in ("normals_masked_valid", "normal_edge"):
        np.testing.assert_array_equal(found.pop(key), expected[key] != 0)
    height, width = given["rays"].shape[1:3]
    ndc = np.diag([2 / (width - 1), 2 / (height - 1), 1.0])
    ndc[:2, 2] = -1
    found["K_ndc"] = np.float32(ndc) @ found["K_free"]
    actual = {key: value for key, value in found.items() if key not in edges}
    for key, value in actual.items():
        golden.check(key, value, expected[key])
    # The signs of the inputs' determinants and upstream's pixel grid (centres at +0.5, which
    # jaxrecon does not use) are inputs rather than results.
    rest = {"svd_input_det_sign", "get_pixel"} | {f"{key}_ambiguous" for key in edges}
    assert actual.keys() | edges.keys() | {"normals_masked_valid", "normal_edge"} == (
        expected.keys() - rest
    )


def pi3_postprocessing(given: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """What upstream's utilities make of a case's inputs, and of its normals."""
    depth, mask, points = given["depth"], given["mask"].astype(bool), given["points"]
    masked, valid = geometry.normals_from_points(points, mask)
    return {
        "edge_rtol": geometry.depth_edges(depth, rtol=0.03),
        "edge_atol": geometry.depth_edges(depth, atol=0.5),
        "edge_both_k5": geometry.depth_edges(depth, atol=0.8, rtol=0.1, window=5),
        "edge_mask": geometry.depth_edges(depth, rtol=0.05, mask=mask),
        "normals": geometry.normals_from_points(points)[0],
        "normals_masked": masked,
        "normals_masked_valid": valid,
        "normal_edge": geometry.normal_edges(given["normals"]),
        "K_free": geometry.intrinsics_from_points(given["rays"]),
        "K_center": geometry.intrinsics_from_points(given["rays"], principal_point="centre"),
        "se3_inverse": geometry.invert_rigid(given["poses"]),
        "svd_orthogonalize": geometry.nearest_rotation(given["mat9"].reshape(-1, 3, 3)),
    }


def check_vggt_postprocessing(golden: Golden) -> None:
    """Pose encodings, quaternions and unprojection."""
    given, size = golden.inputs(), tuple(golden.info["config"]["image_size_hw"])

    def run(encoding: jax.Array, depth: jax.Array) -> dict[str, jax.Array]:
        camera_from_world, intrinsics = geometry.decode_pose(encoding, size)
        world_from_camera = geometry.invert_rigid(camera_from_world)[0]
        rotation = geometry.rotation_from_quaternion(encoding[..., 3:7])
        return {
            "extrinsics": camera_from_world[..., :3, :],
            "intrinsics": intrinsics,
            "pose_encoding_back": geometry.encode_pose(camera_from_world, intrinsics, size),
            "world_points": geometry.transform_points(
                world_from_camera[:, None, None], geometry.unproject_depth(depth, intrinsics[0])
            ),
            "quat_to_mat": rotation,
            "mat_to_quat": geometry.quaternion_from_rotation(rotation),
            "inverse_se3": world_from_camera,
        }

    actual, expected = one_program(run)(given["pose_encoding"], given["depth"]), golden.outputs()
    assert actual.keys() == expected.keys()
    for key, value in actual.items():
        golden.check(key, np.asarray(value), expected[key])


def check_units(golden: Golden) -> None:
    """The primitives that all families share; VGGT's own are in test_dpt.py and test_vggt.py."""
    given, expected = golden.inputs(), golden.outputs()
    for index, positions in enumerate(given["rope_pos"]):
        table = rotary_table(positions, given["rope_q"].shape[-1])
        heads_last = jnp.moveaxis(jnp.asarray(given["rope_q"][index : index + 1]), 1, 2)
        turned = np.moveaxis(np.asarray(apply_rotary(heads_last, table)), 2, 1)
        np.testing.assert_allclose(turned[0], expected["rope"][index], atol=2e-6, rtol=0)
    image = channels_last(given["interp"])
    for key, value in expected.items():
        if size := re.fullmatch(r"bicubic_aa_(\d+)x(\d+)", key):
            shape = image.shape[0], int(size[1]), int(size[2]), image.shape[3]
            resized = jax.image.resize(image, shape, "cubic", antialias=True)
        elif size := re.fullmatch(r"bilinear_ac_true_(\d+)x(\d+)", key):
            resized = resize_bilinear(image, (int(size[1]), int(size[2])))
        elif size := re.fullmatch(r"bilinear_ac_false_(\d+)x(\d+)", key):
            shape = image.shape[0], int(size[1]), int(size[2]), image.shape[3]
            resized = jax.image.resize(image, shape, "linear", antialias=False)
        else:
            continue
        golden.check(key, np.asarray(channels_first(resized)), value)
    check_places(golden)
    check_frames_of_cameras(golden)


def check_places(golden: Golden) -> None:
    """Where in the image the rows and columns of a map are."""
    for key, value in golden.outputs().items():
        if size := re.fullmatch(r"view_plane_uv_w(\d+)_h(\d+)", key):
            width, height = int(size[1]), int(size[2])
            # The corner is at (w - 1) / w of the span across, which tells the aspect ratio.
            across, down = value[0, -1, 0] * width / (width - 1), value[-1, 0, 1] * height
            aspect = across / (down / (height - 1))
            found = placed(jnp.zeros((1, height, width, 0)), float(aspect))
            golden.check(key, np.asarray(found[0]), value)


def check_frames_of_cameras(golden: Golden) -> None:
    """Queries, keys and outputs in the frames of their cameras.

    The manifest does not tell the grid of patches: it is the one of so many patches that fits.
    """
    given, expected = golden.inputs(), golden.outputs()
    x, poses = jnp.asarray(given["prope_x"]).swapaxes(1, 2), jnp.asarray(given["prope_poses_c2w"])
    patches = x.shape[1] // poses.shape[1]

    @partial(jax.jit, static_argnums=0)
    def found(rows: int) -> dict[str, jax.Array]:
        frames = CameraFrames.of(poses, (rows, patches // rows), x.shape[-1])
        moved = {
            "prope_q": frames.of_queries(x),
            "prope_kv": frames.of_keys(x),
            "prope_o": frames.back(x),
        }
        return {key: value.swapaxes(1, 2) for key, value in moved.items()}

    tried = {rows: found(rows) for rows in range(1, patches + 1) if patches % rows == 0}
    nearest = min(
        tried.values(), key=lambda f: np.abs(np.asarray(f["prope_q"]) - expected["prope_q"]).max()
    )
    for key, value in nearest.items():
        golden.check(key, np.asarray(value), expected[key])


CHECKS: dict[str, Callable[[Golden], None]] = {
    "pi3_sparse": check_sparse_pi3,
    "sparse_attention": check_sparse_attention,
    "pi3": check_pi3,
    "vggt": check_vggt,
    "vggt_sparse": check_sparse_vggt,
    "mapanything": check_mapanything,
    "postprocess": check_postprocessing,
    "units": check_units,
}


def check_of(golden: Golden) -> Callable[[Golden], None]:
    """The check that suits a case, as its manifest tells."""
    family, arch = golden.info["family"], golden.info["arch"]
    if any(key.startswith("pos_embed") for key in golden.info["outputs"]):
        return check_encoder
    if family == "pi3" and arch.startswith("pi3x_"):
        return check_pi3x
    if family == "postprocess" and arch.startswith("vggt"):
        return check_vggt_postprocessing
    return CHECKS[family]


def test_golden(golden: Golden) -> None:
    for (family, arch), reason in ELSEWHERE.items():
        if golden.info["family"] == family and golden.info["arch"].startswith(arch):
            pytest.skip(reason)
    check_of(golden)(golden)


def test_position_table_is_resampled_as_upstream() -> None:
    golden = golden_data.case("dinov2reg_vitl_enc")
    table = golden.weights("encoder.pos_embed")["encoder.pos_embed"][0]
    config = replace(DINOV2_LARGE, depth=0)
    encoder = drawn(lambda: DinoV2(config, dtype=jnp.float32, rngs=nnx.Rngs(0)))
    encoder.position_embedding[...] = jnp.asarray(table)
    resampled = one_program(lambda encoder, grid: encoder.position_table(grid), "grid")
    for key, expected in golden.outputs().items():
        if key.startswith("pos_embed"):
            height, width = (int(n) for n in key.rsplit("_", 1)[1].split("x"))
            actual = resampled(encoder, grid=(height // 14, width // 14))[None]
            golden.check(key, actual, expected)


@pytest.fixture
def shapes_found_anew() -> Iterator[None]:
    """Models are traced as they are made here, and none of that is kept."""
    forget = _built.clear_cache  # pyright: ignore[reportAttributeAccessIssue]
    forget()
    yield
    forget()


@pytest.mark.usefixtures("shapes_found_anew")
@pytest.mark.parametrize(
    "place",
    [
        pytest.param("encoder", marks=pytest.mark.thorough),
        "trunk",
        pytest.param("heads", marks=pytest.mark.thorough),
        pytest.param("qk_norm", marks=pytest.mark.thorough),
    ],
)
def test_a_wrong_norm_epsilon_fails(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    golden = golden_data.case("eps_pi3_tiny_56x70_n3")
    if place == "qk_norm":
        monkeypatch.setattr("jaxrecon.nn.attention.QK_NORM_EPS", 1e-6)
    else:
        owner, name = BLOCKS[place]
        right = vars(owner)[name].fget
        wrong = property(lambda config: replace(right(config), norm_eps=1e-5))
        monkeypatch.setattr(owner, name, wrong)
    model = build_pi3(PI3_TINY, golden.weights())
    out = jax.jit(lambda m, x: m(x))(model, channels_last(golden.inputs()["images"]))
    expected = golden.outputs()
    with pytest.raises(AssertionError, match="off by"):
        golden.check("local_points", np.asarray(out.points_camera), expected["local_points"])
        golden.check("camera_poses", np.asarray(out.world_from_camera), expected["camera_poses"])


BLOCKS = {
    "encoder": (DinoV2Config, "block"),
    "trunk": (Pi3Config, "trunk_block"),
    "heads": (Pi3Config, "head_block"),
}


def test_permuting_views_permutes_the_output() -> None:
    golden = golden_data.case("eps_pi3_tiny_56x70_n3")
    model = build_pi3(PI3_TINY, state_dict(TINY_STATE))
    images = channels_last(golden.inputs()["images"])
    order = jnp.array([2, 0, 1])
    forward = jax.jit(lambda m, x: m(x))
    straight, permuted = forward(model, images), forward(model, images[:, order])
    for a, b in zip(jax.tree.leaves(straight), jax.tree.leaves(permuted), strict=True):
        scale = np.abs(a).max()
        assert np.abs(np.asarray(a[:, order]) - np.asarray(b)).max() <= 1e-5 * scale
