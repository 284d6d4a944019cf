"""The server of reconstructions: its queue and API, what it refuses, and one whole run."""

import json
import socket
import threading
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jaxrecon import InputError, OutputError
from jaxrecon.cli import main
from places import EXAMPLES

pytest.importorskip("starlette", reason="needs Starlette (serve)")
pytest.importorskip("uvicorn", reason="needs uvicorn (serve)")
pytest.importorskip("python_multipart", reason="needs python-multipart (serve)")

from jaxrecon import FastAttention, SparseAttention, Stages
from jaxrecon.formats import glb
from jaxrecon.serving import worker
from jaxrecon.serving.limits import Limits
from jaxrecon.serving.process import ProcessRunner
from jaxrecon.serving.serve import Place, serve
from jaxrecon.serving.settings import Settings
from jaxrecon.serving.writing import write_result
from jaxrecon.sparse import within_views_in
from random_recon import random_recon
from served import BOUNDARY, Files, Site, StandIn, bomb, form, png, site

LIMITS = Limits(
    upload_bytes=400_000,
    files=20,
    waiting=3,
    watchers=4,
    stall_seconds=0.5,
    unwatched_seconds=0.3,
)
KIND = f"multipart/form-data; boundary={BOUNDARY}"
PHOTO = ("a.png", png())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("serving")


@pytest.fixture(scope="module")
def served(place: Path) -> Iterator[Site]:
    with site(place / "results", limits=LIMITS) as running:
        yield running


@pytest.fixture
def at_rest(served: Site, place: Path) -> Iterator[Site]:
    """The server; afterwards it is alive, idle, and has written nothing outside of its folder."""
    yield served
    end = time.monotonic() + 10
    while served.runner.running or served.uploads():
        assert time.monotonic() < end, (served.runner.running, served.uploads())
        time.sleep(0.02)
    assert served.ask("GET", "/api")[0] == 200
    assert [path.name for path in place.iterdir()] == ["results"]


def test_a_job_from_submission_to_its_files(at_rest: Site) -> None:
    status, told = at_rest.send([PHOTO, ("b.png", png())], fields={"resolution": "112"})
    assert status == 202
    assert told["title"] == "a and 1 more"
    assert told["settings"] == {
        "model": "pi3-mini",
        "resolution": 112,
        "attention": "auto",
        "max_views": 200,
    }
    done = at_rest.until(told["id"], "done")
    assert [(stage["name"], stage["total"]) for stage in done["stages"]] == [
        ("read", 1),
        ("run", None),
    ]
    assert done["notes"] == ["the upload is fine"]
    status, result = at_rest.ask("GET", done["result"])
    assert status == 200
    assert [file["path"] for file in result["files"]] == [
        "report.html",
        "scene.ply",
        "summary.json",
    ]
    listed = at_rest.ask("GET", "/api/results")[1]["results"]
    assert listed[0]["id"] == told["id"]
    assert listed[0]["thumbnail"] is None


def test_an_animation_alone_is_what_its_pictures_are(at_rest: Site) -> None:
    pictures = [Image.new("RGB", (32, 24), (80 * number,) * 3) for number in range(3)]
    data = BytesIO()
    pictures[0].save(data, "WEBP", save_all=True, append_images=pictures[1:])
    animation = ("a.webp", data.getvalue())
    status, told = at_rest.send([animation])
    assert status == 202
    assert at_rest.until(told["id"], "done")["notes"] == ["a.webp is fine"]  # the source of the run
    status, told = at_rest.send([animation, PHOTO])
    assert status == 400
    assert "a.webp: it holds 3 pictures" in told["error"]


def test_files_are_given_out_apart_from_the_page(at_rest: Site) -> None:
    name = at_rest.job("files")
    at_rest.until(name, "done")
    status, headers, data = at_rest.answer("GET", f"/results/{name}/report.html")
    assert (status, data) == (200, b"<script>alert(1)</script>")
    assert headers["Content-Security-Policy"].startswith("sandbox; default-src 'none'")
    assert headers["X-Content-Type-Options"] == "nosniff"
    status, headers, data = at_rest.answer("GET", f"/results/{name}/scene.ply")
    assert headers["Content-Disposition"].startswith("attachment")
    assert len(data) == 100_004
    status, headers, data = at_rest.answer("GET", f"/results/{name}.zip")
    with zipfile.ZipFile(BytesIO(data)) as archive:
        assert archive.testzip() is None
        assert set(archive.namelist()) == {"report.html", "scene.ply", "summary.json"}


@pytest.mark.parametrize(
    "path",
    [
        "NAME/../../secret",
        "NAME/%2e%2e/%2e%2e/secret",
        "NAME/..%2f..%2fsecret",
        "NAME//etc/passwd",
        "NAME/link",
        "NAME/scene.ply%00",
        "NAME/.hidden",
        "NAME/..%5c..%5csecret",
        "NAME",
        ".uploads/x",
        "../secret",
        "%2e%2e/secret",
        "..zip",
        "none.zip",
    ],
)
def test_paths_out_of_a_result(at_rest: Site, path: str) -> None:
    name = at_rest.job("paths")
    at_rest.until(name, "done")
    folder = at_rest.folder / name
    (folder / ".hidden").write_text("secret")
    (folder / "link").symlink_to("/etc/hostname")
    status, told = at_rest.ask("GET", f"/results/{path.replace('NAME', name)}")
    assert status == 404
    assert set(told) == {"error"}


def test_one_job_at_a_time_in_order(at_rest: Site) -> None:
    first = at_rest.job("long")
    at_rest.until(first, "running")
    others = [at_rest.job(f"job {number}") for number in range(LIMITS.waiting)]
    assert [at_rest.until(name, "waiting")["before"] for name in others] == [1, 2, 3]
    status, told = at_rest.send([PHOTO])
    assert (status, told["error"]) == (429, "3 jobs wait already; try again later")
    assert at_rest.ask("POST", f"/api/jobs/{others[1]}/cancel")[1]["state"] == "cancelled"
    assert at_rest.until(others[2], "waiting")["before"] == 2
    at_rest.ask("POST", f"/api/jobs/{first}/cancel")
    assert at_rest.until(first, "cancelled")["error"] is None
    for name in (others[0], others[2]):
        at_rest.until(name, "done")
    assert at_rest.runner.most == 1
    assert "result" not in at_rest.until(first, "cancelled")


def test_failures_are_told_without_the_paths_of_the_server(at_rest: Site) -> None:
    name = at_rest.job("broken")
    assert at_rest.until(name, "failed")["error"] == "cannot read a.png: damaged"
    name = at_rest.job("crash")
    assert at_rest.until(name, "failed")["error"] == r"RuntimeError: out of\nmemory"


def followed(served: Site, name: str) -> socket.socket:
    """A connection that follows a job, once it has heard of it."""
    end = time.monotonic() + 5
    while True:  # those that have just gone may be counted still
        connection = socket.create_connection(("127.0.0.1", served.port), timeout=5)
        head = heard(connection, served, name)
        if b" 200 " in head:
            assert b"text/event-stream" in head
            return connection
        connection.close()
        assert time.monotonic() < end, head


def heard(connection: socket.socket, served: Site, name: str) -> bytes:
    request = f"GET /api/jobs/{name}/events HTTP/1.1\r\nHost: localhost:{served.port}\r\n\r\n"
    connection.sendall(request.encode())
    data = b""
    while b"data: " not in data and b"error" not in data:
        data += connection.recv(65536)
    return data


def test_events_follow_a_job_to_its_end(at_rest: Site) -> None:
    name = at_rest.job("long")
    at_rest.until(name, "running")
    with followed(at_rest, name) as connection:
        at_rest.ask("POST", f"/api/jobs/{name}/cancel")
        data = b""
        while chunk := connection.recv(65536):
            data += chunk
            if data.endswith(b"0\r\n\r\n"):
                break
    last = data.decode().split("data: ")[-1].split("\n")[0]
    assert json.loads(last)["state"] == "cancelled"


def test_a_job_ends_with_the_page_that_wants_it_so(at_rest: Site) -> None:
    name, other = at_rest.job("long", keep="0"), at_rest.job("long", keep="0")
    with followed(at_rest, name), followed(at_rest, other):
        time.sleep(2 * LIMITS.unwatched_seconds)
        assert at_rest.until(name, "running")
        assert at_rest.until(other, "waiting")
    at_rest.until(name, "cancelled", seconds=5)
    at_rest.until(other, "cancelled", seconds=5)
    never_watched = at_rest.job("long", keep="0")
    at_rest.until(never_watched, "cancelled", seconds=5)


def test_a_flood_of_followers(at_rest: Site) -> None:
    name = at_rest.job("long")
    followers = [followed(at_rest, name) for _ in range(LIMITS.watchers)]
    status, told = at_rest.ask("GET", f"/api/jobs/{name}/events")
    assert status == 429
    assert told["error"].startswith("4 pages follow jobs already")
    for connection in followers:
        connection.close()
    followed(at_rest, name).close()
    at_rest.ask("POST", f"/api/jobs/{name}/cancel")
    at_rest.until(name, "cancelled")


def test_two_hundred_readers(at_rest: Site) -> None:
    name = at_rest.job("read by many")
    at_rest.until(name, "done")
    start = threading.Barrier(200)

    def read(number: int) -> tuple[int, int]:
        start.wait()
        path = (f"/results/{name}/scene.ply", f"/api/results/{name}")[number % 2]
        status, _, data = at_rest.answer("GET", path)
        return status, len(data)

    with ThreadPoolExecutor(200) as pool:
        found = set(pool.map(read, range(200)))
    assert len(found) == 2
    assert (200, 100_004) in found
    assert {status for status, _ in found} == {200}


HOSTILE: dict[str, tuple[Files, int, str]] = {
    "none": ([], 400, "no files were sent"),
    "zero bytes": ([("a.png", b"")], 400, "a.png is empty"),
    "one of zero bytes": ([PHOTO, ("b.png", b"")], 400, "b.png is empty"),
    "text": ([("a.png", b"hello")], 415, "a.png is neither a picture nor a video"),
    "a program": ([("a.png", b"\x7fELF" + bytes(600))], 415, "neither a picture nor a video"),
    "a page": ([("a.html", b"<script>alert(1)</script>")], 415, "neither a picture nor a video"),
    "SVG": ([("a.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>")], 415, "neither a picture"),
    "ZIP": ([("a.zip", b"PK\3\4" + bytes(600))], 415, "neither a picture nor a video"),
    "PostScript": ([("a.png", b"%!PS-Adobe-3.0 EPSF-3.0\n")], 415, "neither a picture"),
    "a playlist": ([("a.m3u8", b"#EXTM3U\n/etc/passwd\n")], 415, "neither a picture nor a video"),
    "a pickle": ([("a.npz", b"\x80\4K\1.")], 415, "neither a picture nor a video"),
    "a wrong suffix": ([("a.txt", png())], 415, "a.txt holds a picture and is not named so"),
    "a picture as a video": ([("a.mp4", png())], 415, "rename it to end in .jpg"),
    "GIF": ([("a.png", b"GIF89a" + bytes(600))], 400, "a GIF"),
    "cut short": ([("a.png", png()[:20])], 400, "a.png"),
    "a bomb": ([("a.png", bomb())], 400, "a.png: it has more than"),
    "a smaller bomb": ([("a.png", bomb(10_000, 10_000))], 400, "which is no photograph"),
    "a video and a photo": (
        [("a.mp4", b"\0\0\0\x18ftypisom" + bytes(600)), PHOTO],
        400,
        "a video was sent with other files",
    ),
    "too large": ([("a.png", png() + bytes(2_000_000))], 413, "larger than 0 MiB"),
    "tiny files": ([(f"{n}.png", png()) for n in range(1000)], 413, "more than 20 files"),
    "twice": ([PHOTO, ("A.PNG", png())], 400, "two files are called A.PNG"),
    "up": ([("../a.png", png())], 400, "give a plain name without folders"),
    "far up": ([("../../../../etc/cron.d/a.png", png())], 400, "give a plain name"),
    "absolute": ([("/etc/a.png", png())], 400, "give a plain name"),
    "Windows": ([(r"b\a.png", png())], 400, "give a plain name"),
    "a drive": ([("C:a.png", png())], 400, "give a plain name"),
    "a sub-folder": ([("b/a.png", png())], 400, "give a plain name"),
    "hidden": ([(".a.png", png())], 400, "give a plain name"),
    "an option": ([("-rf.png", png())], 400, "give a plain name"),
    "nameless": ([("", png())], 400, "give a plain name"),
    "dots": ([("..", png())], 400, "give a plain name"),
    "NUL": ([("a\0.png", png())], 400, "give a plain name"),
    "a terminal's": ([("\x1b[2Ja.png", png())], 400, r"file name \x1b[2Ja.png"),
    "turned": ([("a\u202egnp.exe.png", png())], 400, "give a plain name"),
    "long": ([("a" * 250 + ".png", png())], 400, "it has 254 bytes"),
    "far too long": ([("a" * 5000 + ".png", png())], 400, "the form is damaged"),
}


@pytest.mark.parametrize(("files", "status", "message"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_files(at_rest: Site, files: Files, status: int, message: str) -> None:
    found, told = at_rest.send(files)
    assert message in told["error"]
    assert found == status
    assert "\n" not in told["error"]
    assert str(at_rest.folder) not in told["error"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model": "vggt"}, "model='vggt': choose from pi3-mini, pi3"),
        ({"model": "../../weights"}, "choose from"),
        ({"resolution": "1e9"}, "resolution='1e9': give a whole number from 28 to 1024"),
        ({"resolution": "99999999999999999999"}, "give a whole number from 28 to 1024"),
        ({"resolution": "\u0663\u0663\u0663"}, "give a whole number"),
        ({"sparse_ratio": "0.5"}, "sparse_ratio is for attention=fast or sparse"),
        ({"sparse_ratio": "nan", "attention": "sparse"}, "give a number from 0 to below 1"),
        ({"attention": "fats"}, "did you mean fast?"),
        ({"max_views": "0"}, "give a whole number from 1 to 200"),
        ({"fps": "inf"}, "fps='inf': give a number"),
        ({"keep": "perhaps"}, "keep='perhaps': give 1 or 0"),
        ({"resolutoin": "112"}, "did you mean resolution?"),
        ({"title": "x" * 5000}, "field title: longer than 4096"),
    ],
)
def test_fields(at_rest: Site, fields: dict[str, str], message: str) -> None:
    status, told = at_rest.send([PHOTO], fields=fields)
    assert status == 400
    assert message in told["error"]


@pytest.mark.parametrize(
    ("data", "headers", "status"),
    [
        (b"{}", {"Content_Type": "application/json"}, 415),
        (b"files=a", {"Content_Type": "application/x-www-form-urlencoded"}, 415),
        (b"", {"Content_Type": "multipart/form-data"}, 415),
        (b"x", {"Content_Type": "multipart/form-data; boundary=" + "b" * 300}, 400),
        (b"no form at all", {"Content_Type": KIND}, 400),
        (form([PHOTO], {}, end=False), {"Content_Type": KIND}, 400),
        (f"--{BOUNDARY}\r\n\r\nx\r\n--{BOUNDARY}--".encode(), {"Content_Type": KIND}, 400),
        (f"--{BOUNDARY}\r\n{'A: b' * 9000}\r\n\r\n".encode(), {"Content_Type": KIND}, 400),
        (form([], dict.fromkeys(map(str, range(100)), "")), {"Content_Type": KIND}, 400),
    ],
)
def test_forms_that_are_none(
    at_rest: Site, data: bytes, headers: dict[str, str], status: int
) -> None:
    found, told = at_rest.ask("POST", "/api/jobs", data, **headers)
    assert (found, set(told)) == (status, {"error"})


@pytest.mark.parametrize(
    ("headers", "let_in"),
    [
        ({}, True),
        ({"Host": "localhost:PORT", "Origin": "http://localhost:PORT"}, True),
        ({"Sec_Fetch_Site": "same-origin"}, True),
        ({"Host": "evil.example:PORT"}, False),
        ({"Host": "localhost.evil.example"}, False),
        ({"Host": "localhost:1"}, False),
        ({"Origin": "http://evil.example"}, False),
        ({"Origin": "null"}, False),
        ({"Origin": "http://localhost:1"}, False),
        ({"Origin": "https://localhost:PORT"}, False),
        ({"Sec_Fetch_Site": "cross-site"}, False),
        ({"Sec_Fetch_Site": "same-site"}, False),
    ],
)
def test_pages_of_others(at_rest: Site, headers: dict[str, str], let_in: bool) -> None:
    headers = {name: value.replace("PORT", str(at_rest.port)) for name, value in headers.items()}
    status, told = at_rest.send([PHOTO], fields={}, **headers)
    assert status == (202 if let_in else 403), told
    if let_in:
        at_rest.until(told["id"], "done")


def test_a_name_that_was_made_to_point_here_reads_nothing(at_rest: Site) -> None:
    for path in ("/", "/api/results", "/page/page.js", "/results/x/scene.ply"):
        assert at_rest.ask("GET", path, Host="evil.example")[0] == 403


def test_requests_that_stop_half_way(at_rest: Site) -> None:
    body = form([PHOTO], {})
    head = (
        f"POST /api/jobs HTTP/1.1\r\nHost: localhost:{at_rest.port}\r\nContent-Type: {KIND}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    at_rest.raw(head.encode() + body[:-40], wait=0.05)  # goes away
    answer = at_rest.raw(head.encode() + body[:-40])  # stays, in silence
    assert b" 408 " in answer.split(b"\r\n")[0]
    assert b"stands still" in answer
    at_rest.raw(head.encode()[:30], wait=0.05)


def test_too_many_uploads(at_rest: Site) -> None:
    head = (
        f"POST /api/jobs HTTP/1.1\r\nHost: localhost:{at_rest.port}\r\nContent-Type: {KIND}\r\n"
        "Content-Length: 1000\r\n\r\nx"
    )
    open_ones = [
        socket.create_connection(("127.0.0.1", at_rest.port)) for _ in range(LIMITS.uploads)
    ]
    for connection in open_ones:
        connection.sendall(head.encode())
    time.sleep(0.1)
    status, told = at_rest.send([PHOTO])
    assert (status, told["error"]) == (429, "4 uploads are under way; try again later")
    for connection in open_ones:
        connection.close()


def test_what_is_no_request(at_rest: Site) -> None:
    upgrade = (
        f"GET /api HTTP/1.1\r\nHost: localhost:{at_rest.port}\r\nConnection: Upgrade\r\n"
        "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    for _ in range(50):
        assert b" 101 " not in at_rest.raw(upgrade.encode())[:20]
    for data in (b"\x16\x03\x01\x02\0", b"\0" * 100_000, b"GET /" + b"a" * 200_000 + b"\r\n\r\n"):
        with suppress(OSError):
            at_rest.raw(data)
    assert at_rest.ask("GET", "/" + "a" * 20_000)[0] in (400, 414)
    assert at_rest.ask("DELETE", "/api/jobs")[0] == 405
    assert at_rest.ask("GET", "/api/jobs/none") == (
        404,
        {"error": "there is no such job; see /api/jobs"},
    )


def test_a_token(tmp_path: Path) -> None:
    token = "a1" * 16
    with site(tmp_path / "results", token=token) as running:
        assert running.ask("GET", "/api")[0] == 401
        assert running.ask("GET", "/")[0] == 401
        assert running.ask("GET", "/?token=wrong")[0] == 401
        assert running.ask("GET", f"/api?token={token}")[0] == 401
        assert running.send([PHOTO])[0] == 401
        assert running.ask("GET", "/api", Authorization=f"Bearer {token}")[0] == 200
        assert running.ask("GET", "/api", Authorization="Bearer \xe9")[0] == 401
        status, headers, _ = running.answer("GET", f"/?token={token}")
        assert (status, headers["Location"]) == (303, "/")
        cookie = headers["Set-Cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        assert running.ask("GET", "/api", Cookie=cookie.split(";")[0])[0] == 200
        assert running.ask("GET", "/api", Cookie="\0=;;,")[0] in (400, 401)


def test_closing_ends_what_runs_and_leaves_nothing(tmp_path: Path) -> None:
    runner = StandIn()
    (tmp_path / "results" / ".uploads" / "left").mkdir(parents=True)
    (tmp_path / "results" / ".20260101-000000-0123abcd.part" / "new").mkdir(parents=True)
    with site(tmp_path / "results", runner) as running:
        assert running.uploads() == []
        name, other = running.job("long"), running.job("long")
        running.until(name, "running")
        assert len(running.uploads()) == 2
        follower = followed(running, other)
        start = time.monotonic()
    assert time.monotonic() - start < 3
    follower.close()
    assert runner.closed
    assert runner.running == []
    assert list((tmp_path / "results").iterdir()) == []


def test_a_folder_has_one_server_and_a_port_too(tmp_path: Path) -> None:
    def ready(*_: Any) -> None:
        raise AssertionError("it serves")

    with site(tmp_path / "results") as running:
        with pytest.raises(OutputError, match="another run is writing there"):
            serve(Place(tmp_path / "results", ["pi3"], port=0), StandIn(), ready)
        with pytest.raises(InputError, match=r"--host 203\.0\.113\.7 --port 80"):
            serve(Place(tmp_path / "other", ["pi3"], "203.0.113.7", 80), StandIn(), ready)
        assert not (tmp_path / "other").exists()
        assert running.ask("GET", "/api")[0] == 200


def test_what_a_folder_holds_already(tmp_path: Path) -> None:
    for name, text in (("good", "{}"), ("damaged", "{"), ("list", "[]"), (".hidden", "{}")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "summary.json").write_text(text)
    (tmp_path / "none").mkdir()
    with site(tmp_path) as running:
        listed = running.ask("GET", "/api/results")[1]["results"]
        assert [each["id"] for each in listed] == ["good"]
        assert running.ask("GET", "/api/results/damaged")[0] == 404


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--port", "99999"], "--port 99999: give a number from 0 to 65535"),
        (["-m", "pi3-mimi"], "did you mean pi3-mini?"),
        (["--attention", "dense", "--sparse-ratio", "0.5"], "found --attention dense"),
        (["--sparse-ratio", "1.5"], "sparse_ratio=1.5"),
        (["--sparse-budgets", "late-spared"], "did you mean late_spared?"),
    ],
)
def test_the_command_refuses(
    tmp_path: Path, capsys: pytest.CaptureFixture, arguments: list[str], message: str
) -> None:
    assert main(["serve", str(tmp_path / "results"), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("arguments", "told", "given"),
    [
        ([], None, {"attention": "auto"}),
        (["--attention", "dense"], "--attention dense", {"attention": "dense"}),
        (
            ["--sparse-ratio", "none", "--within-views", "0-2"],
            "--sparse-ratio none --within-views 0,1,2",
            {"attention": "auto", "sparse_ratio": None, "within_views": (0, 1, 2)},
        ),
        (
            ["--attention", "fast", "--key-views", "4"],
            "--attention fast --key-views 4",
            {"attention": "fast", "key_views": 4},
        ),
        (
            ["--sparse-budgets", "late_spared=0.9"],
            "--sparse-budgets late_spared=0.9",
            {"attention": "auto", "sparse_budgets": "late_spared=0.9"},
        ),
    ],
)
def test_the_command_tells_how_models_attend(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    told: str | None,
    given: dict[str, Any],
) -> None:
    served: list[Any] = []
    monkeypatch.setattr("jaxrecon.serving.serve.serve", lambda *found: served.extend(found))
    assert main(["serve", str(tmp_path), "-m", "pi3-mini", *arguments]) == 0
    place, runner, _ = served
    assert place.attention == told
    assert runner.options["attention"] == given


def test_a_server_that_chooses_the_attention_of_all_jobs(tmp_path: Path) -> None:
    with site(tmp_path / "results", attention="--sparse-ratio 0.9") as running:
        about = running.ask("GET", "/api")[1]
        assert (about["attention"], about["attentions"]) == ("--sparse-ratio 0.9", ["auto"])
        for fields in ({"attention": "fast"}, {"attention": "sparse", "sparse_ratio": "0.5"}):
            status, told = running.send([PHOTO], fields=fields)
            assert status == 400
            assert told["error"].startswith(
                "this server was started with --sparse-ratio 0.9 for all jobs; leave attention"
            )
        done = running.until(running.job("quick", attention="auto"), "done")
        assert done["settings"]["attention"] == "--sparse-ratio 0.9"


def test_the_model_attends_as_the_server_was_told(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: dict[str, Any] = {}
    monkeypatch.setattr(worker, "load", lambda name, **given: loaded.update(given))
    told = worker.Worker(lambda event: None)
    given = {"attention": "fast", "sparse_ratio": 0.9, "within_views": (0, 1)}
    told.take({"options": json.loads(json.dumps({"attention": given}))})
    told._pipeline("pi3-mini", Stages(quiet=True))
    sparse = FastAttention(SparseAttention(sparse_ratio=0.9))
    assert loaded["attention"] == within_views_in((0, 1), sparse)
    assert worker._attention(Settings("pi3-mini", attention="--attention fast")) is None
    assert worker._attention(Settings("pi3-mini", attention="fast")) == FastAttention()


def test_a_token_that_is_no_secret(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAXRECON_TOKEN", "short")
    assert main(["serve", str(tmp_path / "results")]) == 2
    assert "JAXRECON_TOKEN: give at least 16 letters and digits" in capsys.readouterr().err


def test_results_tell_nothing_of_where_uploads_lie(tmp_path: Path) -> None:
    """Cameras stay those of the photos, under their names."""
    recon, uploads = random_recon(), tmp_path / "where uploads lie"
    recon = replace(recon, files=tuple(str(uploads / name) for name in recon.names))
    out = tmp_path / "result"
    write_result(recon, out, Settings("pi3-mini", title="a"), Stages(quiet=True))
    secret = b"where uploads lie"
    for path in sorted(each for each in out.rglob("*") if each.is_file()):
        if path.suffix != ".npz":
            assert secret not in path.read_bytes(), path
    with np.load(out / "scene.npz") as archive:
        for name in archive.files:
            assert secret.decode() not in "".join(map(str, archive[name].reshape(-1)[:9])), name
        assert archive["names"].tolist() == list(recon.names)
    photos = json.loads((out / "colmap" / "photos.json").read_text())
    assert [row["picture"] for row in photos["pictures"]] == list(recon.names)
    assert "picture_size" not in photos, "they are the photos"


def test_a_summary_tells_the_points_of_each_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(glb, "DEFAULT_POINTS", 50)
    recon, out = random_recon(), tmp_path / "result"
    write_result(recon, out, Settings("pi3-mini"), Stages(quiet=True))
    summary = json.loads((out / "summary.json").read_text())
    count = int(recon.mask.sum())
    assert summary["points_written"] == {"scene.ply": count, "scene.glb": 50, "colmap/": count}
    assert count == summary["points"] > 50


@pytest.mark.thorough
def test_a_whole_run_and_one_that_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model's process: it stays for the next job, and a job in the compiler ends with it."""
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    photos = sorted((EXAMPLES / "scene" / "images").iterdir())[:2]
    files = [(path.name, path.read_bytes()) for path in photos]
    attention = {"attention": "auto", "sparse_ratio": 0.5}
    runner = ProcessRunner({"attention": attention}, grace=0.0)
    with site(tmp_path / "results", runner, models=["pi3-mini"]) as running:
        status, told = running.send(files, fields={"resolution": "56"})
        assert status == 202
        done = running.until(told["id"], "done", "failed", seconds=120)
        assert done["error"] is None
        assert [stage["name"] for stage in done["stages"]] == [
            *("load", "read", "compile", "run", "export")
        ]
        result = running.ask("GET", done["result"])[1]
        assert (result["views"], result["width"], result["failed"]) == (2, 56, {})
        assert result["sparsity"] is not None, "it attends sparsely, as the server was told"
        paths = {file["path"] for file in result["files"]}
        assert {"scene.ply", "scene.glb", "scene.npz", "report.html", "thumbnail.jpg"} <= paths
        process = runner._process
        again = running.send(files, fields={"resolution": "56"})[1]
        done = running.until(again["id"], "done", seconds=60)
        assert [stage["name"] for stage in done["stages"]] == ["read", "compile", "run", "export"]
        assert runner._process is process
        third = running.send(files, fields={"resolution": "70"})[1]
        running.until(third["id"], "running")
        running.ask("POST", f"/api/jobs/{third['id']}/cancel")
        running.until(third["id"], "cancelled", seconds=5)
        assert process is not None
        assert process.returncode is not None
        names = {path.name for path in running.folder.iterdir()} - {".uploads"}
        assert names == {told["id"], again["id"]}
