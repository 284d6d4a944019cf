"""The viewer lets in pages of its own, and nothing that a page sends takes it down."""

import asyncio
import http.client
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from jaxrecon import InputError
from jaxrecon.cli import main
from random_recon import random_recon

viser = pytest.importorskip("viser")

import msgspec  # noqa: E402
import websockets  # noqa: E402
from websockets import Headers  # noqa: E402

from jaxrecon.formats import viewer_guard  # noqa: E402

CAMERA = {
    "type": "ViewerCameraMessage",
    "wxyz": [1, 0, 0, 0],
    "position": [0, 0, 0],
    "fov": 1.0,
    "near": 0.1,
    "far": 100.0,
    "image_height": 100,
    "image_width": 200,
    "look_at": [0, 0, 1],
    "up_direction": [0, -1, 0],
}
PROTOCOL: Any = f"viser-v{viser.__version__}"
encode = msgspec.msgpack.encode


@pytest.fixture(scope="module", autouse=True)
def tunnels() -> Iterator[list[str]]:
    """Stands in for viser's relay on the internet; what was asked of it."""
    asked: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        url = "https://public.share.example"
        patch.setattr(
            viser.ViserServer, "request_share_url", lambda *_: asked.append("open") or url
        )
        patch.setattr(viser.ViserServer, "disconnect_share_url", lambda *_: asked.append("close"))
        yield asked


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    server = random_recon().view(port=0)
    yield server
    server.stop()


def visited(server: Any, sent: list[str | bytes]) -> int:
    """The close code, or 0, after a page has sent something and asked for the scene."""

    async def visit() -> int:
        address = f"ws://127.0.0.1:{server.get_port()}"
        page: Any
        async with websockets.connect(address, subprotocols=[PROTOCOL], max_size=None) as page:
            assert await page.recv()
            with suppress(websockets.ConnectionClosed):
                for message in sent:
                    await page.send(message)
                await asyncio.wait_for(page.wait_closed(), 0.3)
            return page.close_code or 0

    async def in_time() -> int:
        try:
            return await visit()
        except TimeoutError:
            return 0

    return asyncio.run(in_time())


def answer(port: int, *headers: tuple[str, str], path: str = "/") -> int:
    """The status of a request with these headers and no others."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.putrequest("GET", path, skip_host=True, skip_accept_encoding=True)
    for header in headers:
        connection.putheader(*header)
    connection.endheaders()
    try:
        return connection.getresponse().status
    finally:
        connection.close()


UPGRADE = (
    ("Connection", "Upgrade"),
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA=="),
    ("Sec-WebSocket-Protocol", PROTOCOL),
)


@pytest.mark.parametrize("upgrade", [(), UPGRADE], ids=["page", "websocket"])
@pytest.mark.parametrize(
    ("host", "origin", "let_in"),
    [
        ("localhost:PORT", None, True),
        ("127.0.0.1:PORT", "http://localhost:PORT", True),
        ("[::1]:PORT", "http://[::1]:PORT", True),
        ("LocalHost", "http://127.0.0.1:PORT", True),
        ("evil.example:PORT", None, False),
        ("localhost.evil.example", None, False),
        ("localhost:1", None, False),
        ("127.0.0.1:PORT@evil.example", None, False),
        ("", None, False),
        ("localhost:PORT", "http://evil.example", False),
        ("localhost:PORT", "null", False),
        ("localhost:PORT", "", False),
        ("localhost:PORT", "https://localhost:PORT", False),
        ("localhost:PORT", "http://localhost:1", False),
        ("localhost:PORT", "http://localhost:PORT.evil.example", False),
    ],
)
def test_who_is_let_in(
    server: Any, host: str, origin: str | None, let_in: bool, upgrade: tuple[Any, ...]
) -> None:
    port = server.get_port()
    headers = [("Host", host.replace("PORT", str(port))), *upgrade]
    if origin is not None:
        headers.append(("Origin", origin.replace("PORT", str(port))))
    expected = (101 if upgrade else 200) if let_in else 403
    assert answer(port, *headers) == expected


def test_headers_given_twice_or_not_at_all(server: Any) -> None:
    port = server.get_port()
    host, own = ("Host", f"localhost:{port}"), ("Origin", f"http://localhost:{port}")
    assert answer(port) == 403
    assert answer(port, host, ("Host", "evil.example")) == 403
    assert answer(port, host, own, ("Origin", "http://evil.example")) == 403
    assert answer(port, ("Host", "evil.example"), path="/assets/none.js") == 403


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (b"", 1003),
        (b"\xc1", 1003),
        ("text", 1003),
        (b"\x91" * 100_000, 1003),
        (encode([1]), 1003),
        (encode({"type": 1}), 1003),
        (encode({"kind": "x"}), 1003),
        (encode({"type": "Unheard"}), 0),
        (encode({"type": "ViewerCameraMessage"}), 0),
        (encode(CAMERA | {"wxyz": "no"}), 0),
        (encode(CAMERA | {"position": [0, 0]}), 0),
        (encode(CAMERA | {"fov": None}), 0),
        (encode({"type": "PointCloudMessage", "name": 5}), 0),
        (encode({"type": "GuiUpdateMessage", "uuid": "x", "updates": {"value": [1]}}), 0),
    ],
)
def test_damaged_messages(
    server: Any, capfd: pytest.CaptureFixture, message: str | bytes, code: int
) -> None:
    assert visited(server, [message]) == code
    assert visited(server, [encode(CAMERA)]) == 0
    assert capfd.readouterr() == ("", "")


def test_a_frame_that_promises_far_too_much(server: Any, capfd: pytest.CaptureFixture) -> None:
    port = server.get_port()
    lines = [f"{name}: {value}" for name, value in (("Host", f"localhost:{port}"), *UPGRADE)]
    with socket.create_connection(("127.0.0.1", port), timeout=10) as raw:
        raw.sendall("\r\n".join(["GET / HTTP/1.1", *lines, "", ""]).encode())
        raw.sendall(b"\x82\xff" + (2**40).to_bytes(8, "big") + b"mask" + b"\0" * 1000)
        data = b""
        with suppress(ConnectionResetError):
            while chunk := raw.recv(65536):
                data += chunk
    assert visited(server, []) == 0
    assert capfd.readouterr() == ("", "")


def test_cameras_reach_viser(server: Any) -> None:
    seen: list[float] = []
    server.on_client_connect(lambda client: seen.append(client.camera.fov))
    visited(server, [encode(CAMERA | {"fov": 0.75})])
    assert seen == [0.75]


def test_a_page_cannot_make_the_scene_public(server: Any, tunnels: list[str]) -> None:
    for kind in ("ShareUrlRequest", "ShareUrlDisconnect"):
        assert visited(server, [encode({"type": kind})]) == 0
    assert tunnels == []
    with pytest.raises(InputError, match=r"not shared; serve it with share=True \(--share\)"):
        server.request_share_url()


def test_other_protocols_and_requests_that_are_none(
    server: Any, capfd: pytest.CaptureFixture
) -> None:
    port = server.get_port()
    host = ("Host", f"localhost:{port}")
    for protocol in ("viser-v0.0.1", "other"):
        upgrade = [*UPGRADE[:-1], ("Sec-WebSocket-Protocol", protocol)]
        assert answer(port, host, *upgrade) in (101, 400)
    for data in (b"", b"\x16\x03\x01\x02\0", b"POST / HTTP/1.1\r\n\r\n", b"\0" * 100_000):
        with socket.create_connection(("127.0.0.1", port)) as raw, suppress(OSError):
            raw.sendall(data)
    assert visited(server, []) == 0
    assert capfd.readouterr() == ("", "")


def test_a_flood_of_pages(server: Any, capfd: pytest.CaptureFixture) -> None:
    async def flood() -> list[int | None]:
        address = f"ws://127.0.0.1:{server.get_port()}"
        pages = [
            await websockets.connect(address, subprotocols=[PROTOCOL], max_size=None)
            for _ in range(2 * viewer_guard.MOST_PAGES)
        ]
        await asyncio.sleep(0.3)
        codes = [page.close_code for page in pages]
        await asyncio.gather(*(page.close() for page in pages))
        return codes

    silent = [
        socket.create_connection(("127.0.0.1", server.get_port()), timeout=5) for _ in range(150)
    ]
    codes = asyncio.run(flood())
    assert codes.count(1013) == viewer_guard.MOST_PAGES
    for connection in silent:
        connection.close()
    (guard,) = server.request_share_url.args
    end = time.monotonic() + 60
    while guard.pages and time.monotonic() < end:  # the server is still taking leave of them
        time.sleep(0.05)
    assert visited(server, [encode(CAMERA)]) == 0
    assert capfd.readouterr() == ("", "")


def test_sharing_when_it_is_asked_for(tunnels: list[str]) -> None:
    server = random_recon().view(port=0, share=True)
    try:
        assert tunnels == ["open"]
        assert server.request_share_url() == "https://public.share.example"
        port = server.get_port()
        public = ("Host", "public.share.example"), ("Origin", "https://public.share.example")
        assert answer(port, *public, *UPGRADE) == 101
        assert answer(port, public[0], ("Origin", "http://evil.example"), *UPGRADE) == 403
        visited(server, [encode({"type": "ShareUrlDisconnect"})])
        assert tunnels == ["open"]
    finally:
        server.stop()
        tunnels.clear()


def test_no_public_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(viser.ViserServer, "request_share_url", lambda *_: None)
    with pytest.raises(InputError, match="gave no address; leave it out"):
        random_recon().view(port=0, share=True)


def test_the_command_tells_the_public_address(
    tmp_path: Any, capsys: pytest.CaptureFixture, tunnels: list[str]
) -> None:
    path = random_recon().save(tmp_path / "scene.npz")
    assert main(["view", str(path), "--port", "0", "--once"]) == 0
    assert "shared" not in capsys.readouterr().out
    assert main(["view", str(path), "--port", "0", "--once", "--share"]) == 0
    assert "shared with everybody at https://public.share.example" in capsys.readouterr().out
    tunnels.clear()


@pytest.mark.parametrize("lost", ["_checked", "serve"])
def test_nothing_is_served_without_the_guard(monkeypatch: pytest.MonkeyPatch, lost: str) -> None:
    """As with a version of viser that starts its server in another way."""
    stopped: list[Any] = []
    plain: Callable[..., Any] = viser.ViserServer.stop
    monkeypatch.setattr(viser.ViserServer, "stop", lambda self: stopped.append(self) or plain(self))
    if lost == "serve":
        monkeypatch.setattr(viewer_guard, "_is_visers", lambda _: False)
    else:
        monkeypatch.setattr(viewer_guard, "_checked", lambda process, _: process)
    with pytest.raises(InputError, match=r"cannot be kept from showing the scene") as caught:
        random_recon().view(port=0)
    assert "\n" not in str(caught.value)
    assert len(stopped) == 1


@pytest.mark.parametrize(
    ("bound", "host", "origin", "let_in"),
    [
        ("0.0.0.0", "192.168.7.7:80", "http://192.168.7.7:80", True),
        ("0.0.0.0", "192.168.7.7:80", None, True),
        ("0.0.0.0", "192.168.7.7:80", "http://192.168.7.8:80", False),
        ("0.0.0.0", "[fe80::1]:80", "http://[fe80::1]:80", True),
        ("0.0.0.0", "fe80::1:80", None, False),
        ("0.0.0.0", "[192.168.7.7]:80", None, False),
        ("0.0.0.0", "box:80", "http://box:80", True),
        ("0.0.0.0", "evil.example:80", None, False),
        ("0.0.0.0", "7.evil.example:80", None, False),
        ("0.0.0.0", "localhost:80", "http://evil.example", False),
        ("192.168.7.7", "192.168.7.7:80", "http://192.168.7.7:80", True),
        ("192.168.7.7", "192.168.7.8:80", None, False),
        ("::1", "[::1]:80", None, True),
        ("localhost", "192.168.7.7:80", None, False),
    ],
)
def test_who_is_let_in_at_other_addresses(
    monkeypatch: pytest.MonkeyPatch, bound: str, host: str, origin: str | None, let_in: bool
) -> None:
    """No name of others that leads here is a number, so numbers are safe where all are served."""
    monkeypatch.setattr("socket.gethostname", lambda: "box")
    headers = Headers()
    headers["Host"] = host
    if origin is not None:
        headers["Origin"] = origin
    assert (viewer_guard.Guard(bound).refusal(headers, 80) is None) is let_in


def test_a_server_of_all_addresses_is_guarded() -> None:
    server = random_recon().view(host="0.0.0.0", port=0)
    try:
        port = server.get_port()
        assert answer(port, ("Host", f"127.0.0.1:{port}"), *UPGRADE) == 101
        assert answer(port, ("Host", f"10.1.2.3:{port}")) == 200
        assert answer(port, ("Host", f"evil.example:{port}"), *UPGRADE) == 403
        assert answer(port, ("Host", f"10.1.2.3:{port}"), ("Origin", "http://evil.example")) == 403
    finally:
        server.stop()
