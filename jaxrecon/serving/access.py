"""Who is let in: by Host and Origin, and by a token where the server is not for this machine alone.

Scripts send the token in a header (`Authorization: Bearer ...`). A browser gets it in the address
(`/?token=...`) and keeps it in a cookie that no other site's request carries.
"""

import hmac
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from http import HTTPStatus
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, RedirectResponse, Response

from jaxrecon.visitors import Guard

type Scope = MutableMapping[str, Any]
type Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
type Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
type App = Callable[[Scope, Receive, Send], Awaitable[None]]

_SAFE = ("GET", "HEAD")
_LONGEST = 8192
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "X-Frame-Options": "SAMEORIGIN",
    "Cache-Control": "no-store",
}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)


class _Given:
    """Headers as `Guard` asks for them."""

    def __init__(self, headers: Headers) -> None:
        self._headers = headers

    def get_all(self, key: str, /) -> Sequence[str]:
        return self._headers.getlist(key)


class Guarded:
    """An app that only those reach who are let in; every answer tells browsers to keep it apart."""

    def __init__(self, app: App, guard: Guard, token: str | None) -> None:
        self._app, self._guard, self._token = app, guard, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request, or hands it on."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # there are no websockets here
            await send({"type": "websocket.close", "code": 1008})
            return

        async def send_guarded(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("Content-Security-Policy", _POLICY)
            await send(message)

        answer = self._answer(scope)
        await (self._app if answer is None else answer)(scope, receive, send_guarded)

    def _answer(self, scope: Scope) -> Response | None:
        """What is answered in place of the app; None if the request is let in."""
        headers, port = Headers(scope=scope), (scope.get("server") or ("", 0))[1]
        refusal = self._guard.refusal(_Given(headers), port)
        if refusal is not None:
            return refused(refusal.strip(), HTTPStatus.FORBIDDEN)
        site = headers.get("sec-fetch-site", "none")
        if scope["method"] not in _SAFE and site not in ("none", "same-origin"):
            return refused("pages of other servers may not do this", HTTPStatus.FORBIDDEN)
        if len(scope["raw_path"] or b"") + len(scope["query_string"]) > _LONGEST:
            return refused("the address is too long", HTTPStatus.REQUEST_URI_TOO_LONG)
        return None if self._token is None else self._checked(scope, headers, port, self._token)

    def _checked(self, scope: Scope, headers: Headers, port: int, token: str) -> Response | None:
        cookie = f"jaxrecon-{port}"
        (asked,) = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[:1]
        if scope["path"] == "/" and scope["method"] in _SAFE and _same(asked, token):
            answer = RedirectResponse("/", HTTPStatus.SEE_OTHER)
            answer.set_cookie(cookie, token, httponly=True, samesite="strict")
            return answer
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and _same(given.strip(), token):
            return None
        if _same(_cookie(headers, cookie), token):
            return None
        return refused(
            "this server needs its token: open the address that it printed, or send the header "
            "Authorization: Bearer TOKEN",
            HTTPStatus.UNAUTHORIZED,
        )


def refused(message: str, status: int) -> JSONResponse:
    """The answer to a request that is not met."""
    return JSONResponse({"error": message}, int(status))


def _same(given: str, token: str) -> bool:
    return hmac.compare_digest(given.encode(), token.encode())


def _cookie(headers: Headers, name: str) -> str:
    try:
        found = SimpleCookie(headers.get("cookie", ""))
    except CookieError:
        return ""
    return found[name].value if name in found else ""
