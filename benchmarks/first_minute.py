"""Seconds of the first minute of a new user: `python benchmarks/first_minute.py photos/`.

Installs the checkout into a new virtual environment, runs the demo, reconstructs the photos and
opens the result in headless Chromium; `--record FILE.webp` shows it at the speed at which it
happened. Needs Playwright, pyte and matplotlib, and Chromium on the path; package downloads are as
fast as pip's cache is warm.
"""

import argparse
import io
import os
import pty
import re
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from itertools import pairwise
from pathlib import Path

from matplotlib import get_data_path
from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).resolve().parents[1]
COLUMNS, ROWS = 92, 26
SIZE = 760, 480
STEP = 0.4
"""Seconds between two pictures."""
LOOKING = 4.0
"""Seconds for which the viewer is shown."""


@dataclass
class Recording:
    """Pictures and how long each was seen, in seconds."""

    began: float = field(default_factory=time.monotonic)
    shown: list[tuple[float, Image.Image]] = field(default_factory=list)

    def add(self, picture: Image.Image) -> None:
        """The picture is what is seen from now on."""
        if not self.shown or picture.tobytes() != self.shown[-1][1].tobytes():
            self.shown.append((time.monotonic() - self.began, picture))

    def save(self, path: Path) -> None:
        """Writes an animated WebP that stays on its last picture for two seconds."""
        times = [begin for begin, _ in self.shown]
        durations = [round(1000 * (b - a)) for a, b in pairwise(times)]
        first, *rest = [picture for _, picture in self.shown]
        options = {"duration": [*durations, 2000], "loop": 0, "quality": 60, "method": 6}
        first.save(path, save_all=True, append_images=rest, **options)


class Terminal:
    """Runs commands as in a terminal of `COLUMNS` x `ROWS` and draws what is seen there."""

    def __init__(self, recording: Recording) -> None:
        pyte = import_module("pyte")
        self._screen = pyte.Screen(COLUMNS, ROWS)
        self._stream = pyte.ByteStream(self._screen)
        self._recording = recording
        font = Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSansMono.ttf"
        self._font = ImageFont.truetype(str(font), 13)

    def run(
        self,
        shown: str,
        command: Sequence[str | Path],
        environment: dict[str, str],
        until: Callable[[bytes], bool] = lambda text: False,
    ) -> tuple[float, subprocess.Popen[bytes], bytes]:
        """Runs a command to its end, or until it has said what is waited for."""
        self._stream.feed(f"$ {shown}\r\n".encode())
        begin, text, drawn = time.monotonic(), b"", 0.0
        own, others = pty.openpty()
        size = {"COLUMNS": str(COLUMNS), "LINES": str(ROWS), "TERM": "xterm-256color"}
        process = subprocess.Popen(
            command, stdin=others, stdout=others, stderr=others, env=environment | size
        )
        os.close(others)
        while not until(text):
            if select.select([own], [], [], STEP / 2)[0]:
                try:
                    new = os.read(own, 65536)
                except OSError:  # the other end is closed
                    break
                if not new:
                    break
                text += new
                self._stream.feed(new)
            if time.monotonic() - drawn > STEP:
                drawn = time.monotonic()
                self._recording.add(self._picture())
        self._recording.add(self._picture())
        if not until(text) and process.wait():
            sys.exit(f"{shown}: ended with {process.returncode}\n{text.decode(errors='replace')}")
        return time.monotonic() - begin, process, text

    def _picture(self) -> Image.Image:
        picture = Image.new("RGB", SIZE, (24, 26, 32))
        draw = ImageDraw.Draw(picture)
        for row, line in enumerate(self._screen.display):
            colour = (140, 220, 150) if line.startswith("$ ") else (222, 222, 222)
            draw.text((10, 8 + 17.7 * row), line.rstrip(), colour, self._font)
        return picture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("photos", type=Path, help="a folder of photos")
    add("--record", type=Path, metavar="FILE.webp")
    options = parser.parse_args()
    recording = Recording()
    with tempfile.TemporaryDirectory() as place:
        took = first_minute(Path(place), options.photos.resolve(), recording)
    for name, seconds in took.items():
        print(f"{name:>12}: {seconds:5.1f} s")
    print(f"{'all':>12}: {sum(took.values()):5.1f} s")
    if options.record:
        recording.save(options.record)


def first_minute(place: Path, photos: Path, recording: Recording) -> dict[str, float]:
    """Seconds of each step."""
    shutil.copytree(photos, place / "photos")
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment |= {"JAXRECON_HOME": str(place / "home"), "PWD": str(place)}
    binaries = place / ".venv" / "bin"
    terminal, took = Terminal(recording), {}
    os.chdir(place)
    steps: dict[str, tuple[str, list[str | Path]]] = {
        "environment": ("python3 -m venv .venv", [sys.executable, "-m", "venv", ".venv"]),
        "install": (
            'pip install "path/to/jaxrecon[view]"',
            [binaries / "pip", "install", "-qq", "--disable-pip-version-check", f"{ROOT}[view]"],
        ),
        "demo": ("jaxrecon demo", [binaries / "jaxrecon", "demo", "-o", "demo"]),
        "own photos": (
            "jaxrecon reconstruct photos -m pi3-mini -o out",
            [binaries / "jaxrecon", "reconstruct", "photos", "-m", "pi3-mini", "-o", "out"],
        ),
    }
    for name, (shown, command) in steps.items():
        took[name], _, _ = terminal.run(shown, command, environment)
    command = [binaries / "jaxrecon", "view", "out", "--no-open"]
    address = re.compile(rb"http://[\w.]+:\d+")
    waited, process, text = terminal.run(
        "jaxrecon view out", command, environment, lambda text: bool(address.search(text))
    )
    found = address.search(text)
    assert found is not None
    took["viewer"] = waited + look(found[0].decode(), recording)
    process.terminate()
    process.wait()
    return took


def look(address: str, recording: Recording) -> float:
    """Seconds until the cloud fills a fifth of the page, which is then looked at for a while."""
    playwright_api = import_module("playwright.sync_api")
    begin, seconds = time.monotonic(), None
    flags = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader"]
    with playwright_api.sync_playwright() as playwright:
        path = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(
            executable_path=path, args=[*flags, "--enable-unsafe-swiftshader"]
        )
        page = browser.new_page(viewport={"width": SIZE[0], "height": SIZE[1]})
        page.goto(address, wait_until="commit")
        while seconds is None or time.monotonic() - begin < seconds + LOOKING:
            try:
                picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
            except playwright_api.Error:  # the page is too busy at first
                continue
            recording.add(picture)
            counts = picture.crop((0, 190, SIZE[0] - 260, SIZE[1])).convert("L").histogram()
            if seconds is None and sum(counts[:235]) > 0.2 * sum(counts):
                seconds = time.monotonic() - begin
            time.sleep(STEP / 2)
        browser.close()
    return seconds


if __name__ == "__main__":
    main()
