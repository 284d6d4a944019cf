"""The page of `jaxrecon serve` as a person meets it, in headless Chromium. Needs Playwright."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from browsers import browser, page_of, seen, waited_for
from places import EXAMPLES

pytest.importorskip("playwright", reason="needs Playwright")
pytest.importorskip("starlette", reason="needs Starlette (serve)")
trimesh = pytest.importorskip("trimesh")

from jaxrecon.serving.limits import Limits  # noqa: E402
from jaxrecon.serving.process import ProcessRunner  # noqa: E402
from served import png, site  # noqa: E402

SIZE = 1000, 900


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as opened:
        yield opened


def test_photos_become_points(
    chromium: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    photos = [str(path) for path in sorted((EXAMPLES / "scene" / "images").iterdir())[:3]]
    with (
        site(tmp_path / "results", ProcessRunner({}), models=["pi3-mini"]) as running,
        page_of(chromium, f"http://localhost:{running.port}", SIZE) as page,
    ):
        assert page.locator("#send").is_disabled()
        page.set_input_files("#files", photos)
        page.fill("#resolution", "112")
        page.click("#send")
        page.wait_for_selector("#stages li", timeout=60_000)
        page.wait_for_selector("#cloud:not([hidden])", timeout=120_000)
        box = page.locator("#cloud").bounding_box()

        def drawn() -> float:
            page.locator("#cloud").scroll_into_view_if_needed()
            box = page.locator("#cloud").bounding_box()
            picture = seen(page, (box["x"], box["y"], box["width"], box["height"]))
            return float((np.abs(picture - picture[0, 0]).max(axis=-1) > 20).mean())

        assert box["width"] > 500
        waited_for(drawn, lambda share: share > 0.05, "points")
        assert page.locator("#sheet").evaluate("each => each.complete && each.naturalWidth > 0")
        assert page.locator("#gallery button").count() == 1
        for name in ("scene.ply", "scene.glb"):
            with page.expect_download() as download:
                page.click(f"#downloads a:text-is('{name}')")
            download.value.save_as(tmp_path / name)
            scene = trimesh.load(tmp_path / name)
            clouds = scene.geometry.values() if name.endswith("glb") else [scene]
            assert sum(len(each.vertices) for each in clouds) > 1000


def test_refusals_cancelling_and_closing(chromium: Any, tmp_path: Path) -> None:
    (tmp_path / "long.png").write_bytes(png())
    (tmp_path / "text.png").write_text("no picture")
    limits = Limits(unwatched_seconds=2.0)
    with site(tmp_path / "results", limits=limits) as running:
        url = f"http://localhost:{running.port}"
        with page_of(chromium, url, SIZE) as page:
            page.set_input_files("#files", str(tmp_path / "long.png"))
            page.click("#send")
            page.wait_for_selector("#stages li:nth-child(2)")
            page.click("#cancel")
            page.wait_for_selector("#job-state:text('Cancelled.')")
            page.click("#send")
            page.wait_for_selector("#cancel:not([hidden])")
            page.wait_for_selector("#stages li:nth-child(2)")
            name = running.ask("GET", "/api/jobs")[1]["jobs"][0]["id"]
            assert running.until(name, "running")
            page.reload()
            page.wait_for_selector("#cancel:not([hidden])")
            page.wait_for_timeout(2500)
            assert running.until(name, "running")
        running.until(name, "cancelled", seconds=10)  # the page is closed
        page = chromium.new_page()
        page.goto(url)
        page.set_input_files("#files", str(tmp_path / "text.png"))
        page.click("#send")
        page.wait_for_selector("#problem:not([hidden])")
        assert "text.png is neither a picture nor a video" in page.inner_text("#problem")
        page.close()


def test_the_page_tells_of_an_attention_for_all_jobs(chromium: Any, tmp_path: Path) -> None:
    with (
        site(tmp_path / "results", attention="--sparse-ratio 0.9") as running,
        page_of(chromium, f"http://localhost:{running.port}", SIZE) as page,
    ):
        page.wait_for_selector("#attends:not([hidden])", timeout=10_000)
        assert page.locator("#attends").text_content() == "Attention: --sparse-ratio 0.9"
        assert not page.locator("#attention").is_visible()


def test_a_server_that_is_started_again(chromium: Any, tmp_path: Path) -> None:
    """The page tells that its job is lost, and sends the next one."""
    (tmp_path / "long.png").write_bytes(png())
    (tmp_path / "next.png").write_bytes(png())
    with site(tmp_path / "results") as running:
        port, page = running.port, chromium.new_page()
        page.goto(f"http://localhost:{port}")
        page.set_input_files("#files", str(tmp_path / "long.png"))
        page.click("#send")
        page.wait_for_selector("#stages li:nth-child(2)")
    page.wait_for_selector("#problem:text('does not answer')", timeout=20_000)
    with site(tmp_path / "results", port=port) as running:
        assert running.port == port
        page.wait_for_selector("#problem:text('knows this job no more')", timeout=20_000)
        assert not page.locator("#cancel").is_visible()
        page.set_input_files("#files", str(tmp_path / "next.png"))
        page.click("#send")
        page.wait_for_selector("#result:not([hidden])", timeout=20_000)
        assert page.inner_text("#result-title") == "next"
        assert not page.locator("#problem").is_visible()
        page.close()


def test_a_page_among_too_many_followers(chromium: Any, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png())
    (tmp_path / "broken.png").write_bytes(png())
    with site(tmp_path / "results", limits=Limits(watchers=0)) as running:
        page = chromium.new_page()
        page.goto(f"http://localhost:{running.port}")
        page.set_input_files("#files", str(tmp_path / "a.png"))
        page.click("#send")
        page.wait_for_selector("#result:not([hidden])", timeout=20_000)
        page.set_input_files("#files", str(tmp_path / "broken.png"))
        page.click("#send")
        page.wait_for_selector("#problem:text('a.png: damaged')", timeout=20_000)
        page.close()


def test_a_result_tells_the_points_of_its_files_and_what_was_left_out(
    chromium: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "results" / "old" / "colmap" / "sparse" / "0"
    folder.mkdir(parents=True)
    for file in (folder / "points3D.bin", folder / "images.bin", folder.parents[2] / "scene.ply"):
        file.write_bytes(b"x")
    summary = {
        **{"model": "pi3", "views": 2, "points": 5000, "kept": 0.5, "warnings": ["Blurred."]},
        "points_written": {"scene.ply": 5000, "colmap/": 1200},
        "failed": {"glb": "trimesh is absent"},
    }
    (folder.parents[2] / "summary.json").write_text(json.dumps(summary))
    with (
        site(tmp_path / "results") as running,
        page_of(chromium, f"http://localhost:{running.port}", SIZE) as page,
    ):
        page.click("#gallery button")
        page.wait_for_selector("#downloads li")
        told = page.locator("#downloads li").all_inner_texts()
        ends = {each.split()[0]: each.partition("kB")[2] for each in told}
        assert ends["scene.ply"] == ", 5,000 points"
        assert ends["colmap/sparse/0/points3D.bin"] == ", 1,200 points"
        assert ends["colmap/sparse/0/images.bin"] == ""
        warnings = page.locator("#warnings li").all_inner_texts()
        assert warnings == ["Blurred.", "glb was left out: trimesh is absent"]
