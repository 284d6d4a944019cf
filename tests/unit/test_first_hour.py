"""What a first hour meets: things say what they are, and misspelt names get the nearest."""

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxrecon
from drawn_weights import drawn
from jaxrecon import InputError, SparseAttention
from jaxrecon.choices import meant
from jaxrecon.cli import main
from jaxrecon.cli.commands import _parser
from jaxrecon.cli.parser import _commands
from jaxrecon.evaluation import Settings, open_dataset
from jaxrecon.formats import PointTracks
from jaxrecon.models import PI3_RESIZE, Pi3
from jaxrecon.nn.attention import named_attention
from jaxrecon.pipeline import Pipeline
from jaxrecon.reconstruction import Reconstruction
from places import fresh_process
from random_recon import VIEWS, random_recon
from room_scenes import room_recon
from tiny_models import PI3_TINY

WHOLE = _parser()
COMMANDS = _commands(WHOLE)


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return Pipeline(drawn(lambda: Pi3(PI3_TINY, rngs=nnx.Rngs(0))), "tiny", PI3_RESIZE)


# What things say of themselves.


def test_a_model_says_what_it_is(pipeline: Pipeline) -> None:
    first, *others = repr(pipeline).splitlines()
    assert first.startswith("Pipeline tiny: Pi3, ") and first.endswith(" M parameters, float32")
    assert others[0] == "  attention: dense"
    assert others[1] == "  devices: 1 x cpu; programs compiled: 0"
    assert len(others) <= 4
    sparse = replace(pipeline, attention=SparseAttention())
    assert "attention: SparseAttention" in repr(sparse)
    assert pipeline._repr_html_() == f"<pre>{pipeline!r}</pre>"


def test_a_reconstruction_says_what_it_is() -> None:
    recon = room_recon(views=2)
    recon.mask[0] = False
    assert repr(recon).splitlines() == [
        "Reconstruction by room: 2 views of 64x48 pixels",
        "  points: 3,072 kept, 50.0 % of the pixels",
        repr(recon).splitlines()[2],
        "  scale: metric: lengths are in metres",
    ]
    bounds = repr(recon).splitlines()[2]
    low, high = np.percentile(recon.points_world[1].reshape(-1, 3), [2, 98], axis=0)
    assert bounds.startswith(f"  bounds: x {low[0]:.3g} to {high[0]:.3g}, y {low[1]:.3g} to ")
    assert "not metric" in repr(room_recon(metric=False))
    assert repr(recon[0]).splitlines()[0].endswith("1 view of 64x48 pixels")
    assert "no point was kept" in repr(recon[0])


def test_what_is_followed_is_told() -> None:
    tracks = PointTracks(
        xy=np.zeros((VIEWS, 5, 2)),
        visibility=np.zeros((VIEWS, 5)),
        confidence=np.zeros((VIEWS, 5)),
        query_view=np.zeros(5, np.int64),
    )
    assert "; 5 points followed" in repr(replace(random_recon(), tracks=tracks))


def test_large_scenes_are_glanced_at() -> None:
    recon = room_recon(views=4, height=800, width=1000)
    scene, counts = recon._glance()
    assert scene.mask.size <= 1_000_000
    assert counts.kept == recon.mask.size
    assert "3,200,000 kept, 100.0 %" in repr(recon)
    assert "4 views of 1000x800 pixels" in repr(recon)


def test_arrays_of_jax_and_such_that_are_gone() -> None:
    recon = random_recon()
    on_device = replace(recon, points_world=jnp.asarray(recon.points_world))
    assert repr(on_device) == repr(recon)
    on_device.points_world.delete()  # pyright: ignore[reportAttributeAccessIssue]
    assert repr(on_device) == "Reconstruction by pi3: 3 views"


def test_a_notebook_shows_photos_and_depth() -> None:
    recon = replace(random_recon(), names=("<i>", '"', "c"), model="<b>")
    text = recon._repr_html_()
    assert text.count("<img") == 2 * VIEWS
    assert text.count("data:image/jpeg;base64,") == 2 * VIEWS
    assert "<i>" not in text and "&lt;i&gt;" in text and "&lt;b&gt;" in text
    assert len(random_recon()[np.arange(9) % 3]._repr_html_()) < 60_000


def test_the_package_completes_what_it_offers() -> None:
    code = "import jaxrecon, sys; print(*dir(jaxrecon)); assert 'jax' not in sys.modules"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=fresh_process(), capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == {*jaxrecon.__all__, "__version__"}
    assert all(getattr(jaxrecon, name) is not None for name in dir(jaxrecon))


def test_loading_waits_for_no_library_that_only_files_and_sequences_need() -> None:
    code = "import jaxrecon, sys; jaxrecon.load; assert 'scipy' not in sys.modules"
    command = [sys.executable, "-c", code]
    subprocess.run(command, env=fresh_process(), check=True)


def test_the_version(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"jaxrecon {jaxrecon.__version__}\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_shells_complete_commands_and_options(shell: str, capsys: pytest.CaptureFixture) -> None:
    pytest.importorskip("shtab", reason="needs shtab")
    with pytest.raises(SystemExit) as ended:
        main(["--print-completion", shell])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    for name in ("reconstruct", "resolution", "max-points", "report"):
        assert name in printed


# Misspelt names.


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("pi3-mni", "; did you mean pi3-mini?"),
        ("PI3_Mini", "; did you mean pi3-mini?"),
        ("vgg", "; did you mean vggt?"),
        ("somewhere", ""),
        ("", ""),
        ("x" * 10**6, ""),
        (None, ""),
        (3, ""),
    ],
)
def test_the_nearest_name(value: object, expected: str) -> None:
    assert meant(value, ("pi3", "pi3-mini", "vggt", True, None)) == expected


MISSPELT: dict[str, tuple[Callable[[], Any], str]] = {
    "model": (lambda: jaxrecon.load("pi3_mni"), "pi3-mini"),
    "attention": (lambda: jaxrecon.load("pi3-mini", attention="sprase"), "sparse"),  # pyright: ignore
    "dense attention": (lambda: named_attention("mosaic-gpu"), "mosaic_gpu"),
    "order": (lambda: SparseAttention(order="pca_tre"), "pca_tree"),  # pyright: ignore
    "pooling": (lambda: SparseAttention(pooling="maen"), "mean"),  # pyright: ignore
    "format": (lambda: random_recon().save("a", "colmp"), "colmap"),
    "size": (lambda: random_recon().save("a/", size="orginal"), "original"),  # pyright: ignore
    "evaluation set": (lambda: open_dataset("proceduarl"), "procedural"),
    "depth alignment": (lambda: Settings(depth_alignment="scale_shfit"), "scale_shift"),  # pyright: ignore
}


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize("kind", MISSPELT)
def test_misspelt_names_get_the_nearest(kind: str) -> None:
    call, expected = MISSPELT[kind]
    with pytest.raises(InputError) as caught:
        call()
    assert str(caught.value).endswith(f"; did you mean {expected}?")


def test_misspelt_keywords_get_the_nearest(pipeline: Pipeline) -> None:
    options: dict[str, Any] = {"min_confidnce": 0.5}
    with pytest.raises(TypeError, match=r"'min_confidnce'; did you mean min_confidence\?"):
        pipeline.reconstruct("photos/", **options)
    options = {"maxpoints": 5}
    with pytest.raises(TypeError, match=r"'maxpoints'; did you mean max_points\?"):
        Reconstruction.save(random_recon(), "a.ply", **options)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["recontruct", "photos/"], "reconstruct"),
        (["reconstruct", "photos/", "-o", "out", "--resoltion", "3"], "--resolution"),
        (["reconstruct", "photos/", "-o", "out", "--attention", "sprase"], "sparse"),
        (["view", "out", "--no-opne"], "--no-open"),
        (["reconstruct", "photos/", "--out", "out"], "--output"),
        (["--versoin"], "--version"),
    ],
)
def test_misspelt_commands_and_options_get_the_nearest(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit):
        main(arguments)
    assert capsys.readouterr().err.endswith(f"; did you mean {expected}?\n")


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_options_are_never_abbreviated(command: str, capsys: pytest.CaptureFixture) -> None:
    """Or `--keep` would be one option today, and another once there is a second."""
    options = [name for name in COMMANDS[command]._option_string_actions if name[:2] == "--"]
    short = {name[:-1] for name in options if len(name) > 3} - set(options)
    assert short
    for name in short:
        for words in ([name], [f"{name}=1"], ["somewhere", name, "1"]):
            with pytest.raises(SystemExit) as caught:
                WHOLE.parse_args([command, *words])
            assert caught.value.code == 2
            line = capsys.readouterr().err.splitlines()[-1]
            assert "unrecognized arguments: " + name in line
            near = re.findall(r"--[\w-]+", line.partition("did you mean ")[2])
            assert near == sorted(full for full in options if full.startswith(name))


def test_what_begins_many_options_gets_no_list(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        WHOLE.parse_args(["reconstruct", "photos/", "--s"])
    assert "--stride" not in capsys.readouterr().err.splitlines()[-1]


def test_a_value_may_look_like_an_option() -> None:
    options = WHOLE.parse_args(["view", "--host", "--a name--", "--", "--once"])
    assert (options.host, options.scene) == ("--a name--", "--once")


def test_an_option_of_another_command_is_not_offered_again(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        main(["demo", "--quiet"])
    assert capsys.readouterr().err.endswith("unrecognized arguments: --quiet (of other commands)\n")


def test_a_misspelt_format_on_the_command_line(capsys: pytest.CaptureFixture) -> None:
    assert main(["reconstruct", "photos/", "-o", "out", "--formats", "ply,colmp"]) == 2
    assert capsys.readouterr().err.endswith("; did you mean colmap?\n")
