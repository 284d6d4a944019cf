"""Who may talk to a server of ours: pages that it gave out itself, and programs that can reach it.

Any page that a browser has open may connect to a server on localhost. A browser says in the Origin
header whose page it is, and in Host under which name the server was reached, which tells the pages
of a name that was made to point here (DNS rebinding).
"""

import ipaddress
import socket
from collections.abc import Sequence
from typing import Protocol, runtime_checkable
from urllib.parse import urlsplit

from jaxrecon.browsing import EVERYWHERE, url_host

NAMES = ("localhost", "127.0.0.1", "[::1]")
"""Names under which a server may be asked for, wherever it serves."""


@runtime_checkable
class GivenHeaders(Protocol):
    """The headers of a request, of which one may be given several times."""

    def get_all(self, key: str, /) -> Sequence[str]:
        """All values of a header, whatever the case of its name."""
        ...


class Guard:
    """What a server lets in.

    A server of all addresses may be asked for by any of them, and by this machine's name: no name
    of others that was made to point here is a number.

    Attributes:
      host: the address that the server has.
      public_url: where the server is shared with everybody; None while it is not.
      pages: how many are connected.
    """

    def __init__(self, host: str = "localhost") -> None:
        self.host = host
        self.public_url: str | None = None
        self.pages = 0

    def names(self, asked: str) -> set[str]:
        """Under which names the server may be asked for, by who asks for one."""
        if self.host not in EVERYWHERE:
            return {*NAMES, url_host(self.host).lower()}
        names = {*NAMES, socket.gethostname().lower()}
        return names | {asked} if _is_number(asked) else names

    def refusal(self, headers: GivenHeaders, port: int) -> str | None:
        """Why a request with these headers to a port is refused; None if it is not."""
        given = [host.lower() for host in headers.get_all("Host")]
        asked = given[0] if given else ""
        names = self.names(asked.removesuffix(f":{port}"))
        hosts = {host for name in names for host in (name, f"{name}:{port}")}
        origins = {f"http://{name}:{port}" for name in names}
        if self.public_url is not None:
            public = urlsplit(self.public_url)
            hosts.add(public.netloc)
            origins.add(f"{public.scheme}://{public.netloc}")
        if len(given) != 1 or given[0] not in hosts:
            return f"Host must be localhost:{port}; open http://localhost:{port}\n"
        if any(origin.lower() not in origins for origin in headers.get_all("Origin")):
            return f"pages of other servers may not connect; open http://localhost:{port}\n"
        return None


def _is_number(host: str) -> bool:
    """Whether it is an IP address, as URLs write it."""
    plain = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if (":" in plain) != (plain != host):
        return False
    try:
        ipaddress.ip_address(plain)
    except ValueError:
        return False
    return True
