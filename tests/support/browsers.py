"""A real browser for the tests of pages, through Playwright; what is seen as arrays."""

import io
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import pytest
from PIL import Image

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
SIZE = 800, 520
"""Of the page, in pixels."""
_TRIES = 20
_SOFTWARE = ("--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader")


@contextmanager
def browser() -> Iterator[Any]:
    """Headless Chromium, which draws in software; skips the test where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright")
    if CHROMIUM is None:
        pytest.skip("needs Chromium: on the path, or named in CHROMIUM")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(
            executable_path=CHROMIUM, args=[*_SOFTWARE, "--enable-unsafe-swiftshader"]
        )
        yield opened
        opened.close()


@contextmanager
def page_of(browser: Any, url: str, size: tuple[int, int] = SIZE) -> Iterator[Any]:
    """A page, whose errors are errors of the test."""
    page = browser.new_page(viewport={"width": size[0], "height": size[1]}, accept_downloads=True)
    errors: list[str] = []
    page.on("console", lambda told: told.type == "error" and errors.append(told.text))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(url, wait_until="commit")
    yield page
    page.close()
    assert not errors, "\n".join(errors)


def seen(page: Any, box: tuple[float, float, float, float] | None = None) -> np.ndarray:
    """What a page shows, height x width x RGB; `box` is left, top, width and height."""
    picture = np.asarray(Image.open(io.BytesIO(_screenshot(page))).convert("RGB"))
    if box is not None:
        left, top, width, height = map(round, box)
        picture = picture[top : top + height, left : left + width]
    return picture.astype(np.float32)


def _screenshot(page: Any) -> bytes:
    """Of a page that may be too busy at first."""
    for _ in range(_TRIES):
        with suppress(Exception):
            return page.screenshot()
        time.sleep(0.5)
    return page.screenshot()


def waited_for[T](
    look: Callable[[], T], fits: Callable[[T], bool], what: str, seconds: float = 60
) -> T:
    """What is seen once it fits."""
    end = time.monotonic() + seconds
    while True:
        found = look()
        if fits(found):
            return found
        assert time.monotonic() < end, f"{what}: not within {seconds} s"
        time.sleep(0.1)


def filled(picture: np.ndarray) -> float:
    """The share of a picture that is not white."""
    return float((np.abs(picture - 255).max(axis=-1) > 20).mean())


def changed(one: np.ndarray, other: np.ndarray) -> float:
    """The share of pixels that two pictures do not have in common."""
    return float((np.abs(one - other).max(axis=-1) > 20).mean())


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Pearson's, of the brightness of two pictures, seen from afar."""
    small = [
        np.asarray(
            Image.fromarray(each.astype(np.uint8))
            .convert("L")
            .resize((48, 36), Image.Resampling.BOX)
        )
        for each in (one, other)
    ]
    return float(np.corrcoef(small[0].ravel(), small[1].ravel())[0, 1])
