"""The sizes of the model that a golden case ran, from its manifest."""

from dataclasses import replace
from typing import Any

from golden_data import Golden
from jaxrecon.models import (
    MAPANYTHING,
    MAPANYTHING_V1,
    PI3,
    PI3X,
    VGGT_1B,
    MapAnythingConfig,
    Pi3Config,
    Pi3XConfig,
    TrackerConfig,
    VGGTConfig,
)
from jaxrecon.nn.dinov2 import DinoV2Config


def pi3_config(golden: Golden) -> Pi3Config:
    """π³'s: released, or as small as the manifest says."""
    told = _small(golden, "enc_dim")
    return PI3 if told is None else Pi3Config(**_of_pi3(told))


def pi3x_config(golden: Golden) -> Pi3XConfig:
    """π³-X's; upstream counts both kinds of the trunk's blocks through."""
    told = _small(golden, "enc_dim")
    if told is None:
        return PI3X
    first, second, third = told["conv_upsample"]
    return Pi3XConfig(
        **_of_pi3(told),
        upsampled=(first, second, third),
        last_width=told["conv_last"],
        metric_width=told["metric_dim"],
        metric_heads=told["metric_heads"],
        metric_depth=told["metric_depth"],
        metric_features=told["metric_out"],
        posed_pairs=tuple(block // 2 for block in told["inject_layers"]),
    )


def vggt_config(golden: Golden) -> VGGTConfig:
    """VGGT's."""
    told = _small(golden, "dino")
    if told is None:
        return VGGT_1B
    dino, camera, dpt, track = (told[part] for part in ("dino", "camera", "dpt", "track"))
    tracker = replace(
        TrackerConfig(),
        features=track["features"],
        levels=track["corr_levels"],
        radius=track["corr_radius"],
        width=track["hidden_size"],
        depth=track["depth"],
    )
    return replace(
        VGGT_1B,
        encoder=_encoder(told["embed_dim"], dino["depth"], dino["heads"], dino["registers"], told),
        heads=told["num_heads"],
        pairs=told["depth"],
        taps=tuple(told["intermediate_layer_idx"]),
        camera_heads=camera["num_heads"],
        camera_depth=camera["trunk_depth"],
        channels=tuple(dpt["out_channels"]),
        features=dpt["features"],
        tracker=tracker,
    )


def mapanything_config(golden: Golden) -> MapAnythingConfig:
    """MapAnything's, version 1 or 1.1."""
    config = golden.info["config"]
    released = MAPANYTHING_V1 if config["version"] == "v1" else MAPANYTHING
    told = config["tiny"]
    if told is None:
        return released
    encoder = replace(
        released.encoder,
        width=told["enc_dim"],
        depth=told.get("keep_layers", told["enc_depth"]),
        heads=told["enc_heads"],
        grid=told["img_size"] // released.encoder.patch,
    )
    return replace(
        released,
        encoder=encoder,
        width=told["aat_dim"],
        heads=told["aat_heads"],
        pairs=told["aat_depth"] // 2,
        taps=(*told["indices"], told["aat_depth"] - 1),
        dense_widths=tuple(told["dense_dims"]),
        vector_widths=tuple(told["global_dims"]),
        channels=tuple(told["layer_dims"]),
        features=told["feature_dim"],
        scale_width=told["scale_hidden"],
    )


def _small(golden: Golden, field: str) -> dict[str, Any] | None:
    """Sizes of a small model, which have this field; None of a released one."""
    config = golden.info["config"]
    told = config.get("tiny", config)  # sparse cases have their policy beside it
    return told if told is not None and field in told else None


def _of_pi3(told: dict[str, Any]) -> dict[str, Any]:
    return {
        "encoder": _encoder(
            told["enc_dim"], told["enc_depth"], told["enc_heads"], told["enc_registers"], told
        ),
        "heads": told["dec_heads"],
        "pairs": told["dec_depth"] // 2,
        "registers": told["dec_registers"],
        "head_width": told["head_dim"],
        "head_heads": told["head_heads"],
        "head_depth": told["head_depth"],
        "point_width": told["point_out"],
        "camera_width": told["camera_out"],
        "rope_base": float(told["rope_freq"]),
    }


def _encoder(
    width: int, depth: int, heads: int, registers: int, told: dict[str, Any]
) -> DinoV2Config:
    patch = told["patch"] if "patch" in told else told["patch_size"]
    return DinoV2Config(width, depth, heads, registers, patch, told["img_size"] // patch)
