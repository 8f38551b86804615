"""What the `listen` directives of servers say: which ports, and whether they speak TLS."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from attrs import frozen
from twisted.internet.defer import Deferred

from mmwagent.host.service import NotInstalled
from mmwagent.nginx.documents import Documents
from mmwagent.nginx.grammar import Directive
from mmwagent.nginx.layout import Layouts

_PORTS = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?")
_DEFAULT = 80


@frozen
class Listen:
    """
    One `listen` directive: its ports from `first` to `last`, and whether it is for TLS.

    That of a UNIX socket has port 0.
    """

    directive: Directive
    first: int
    last: int
    tls: bool

    def takes(self, port: int) -> bool:
        """Return whether it listens on `port`, on whatever address."""
        return self.first <= port <= self.last


def listens(server: Directive) -> Iterator[Listen]:
    """Give what the block `server` listens on (ngx_http_core_module and stream, `listen`)."""
    for directive in server.block or ():
        if directive.name == "listen" and directive.words:
            first, last = _ports(directive.words[0])
            yield Listen(directive, first, last, "ssl" in directive.words[1:])


def ssl_ports(documents: Documents) -> dict[str, int]:
    """Return the TLS port of each name that an HTTP server of nginx has, the first one of each."""
    ports: dict[str, int] = {}
    for found in documents.directives():
        if found.context == ("http",) and found.directive.name == "server":
            port = _ssl_port(found.directive)
            for name in _names(found.directive) if port else ():
                ports.setdefault(name, port)
    return ports


async def ssl_ports_here(find: Layouts, in_thread: Callable[..., Deferred[Any]]) -> dict[str, int]:
    """Return what `ssl_ports` says of the nginx of this machine, nothing where there is none."""
    try:
        layout = await find()
    except NotInstalled:
        return {}
    ports: dict[str, int] = await in_thread(ssl_ports, Documents(layout.main))
    return ports


def ssl_port_of(domain: str, ports: dict[str, int]) -> int:
    """
    Return the TLS port of the server for the host name `domain`, 0 where there is none.

    `ports` is what `ssl_ports` gave: an exact name comes first, then the longest wildcard.
    """
    domain = domain.lower().rstrip(".")
    labels = domain.removeprefix("*.").split(".")
    above = [".".join(labels[at:]) for at in range(1, len(labels))]
    for name in (domain, f".{domain}", *_wildcards(above)):
        if name in ports:
            return ports[name]
    return 0


def _wildcards(parents: Iterable[str]) -> Iterator[str]:
    for parent in parents:
        yield f"*.{parent}"
        yield f".{parent}"  # nginx: the name itself and all below it


def _ssl_port(server: Directive) -> int:
    # `ssl on;` made all of them TLS until nginx 1.25.
    all_tls = any(
        directive.name == "ssl" and directive.words == ("on",) for directive in server.block or ()
    )
    return next((one.first for one in listens(server) if one.first and (one.tls or all_tls)), 0)


def _names(server: Directive) -> Iterator[str]:
    for directive in server.block or ():
        if directive.name == "server_name":
            yield from (name.lower() for name in directive.words)


def _ports(address: str) -> tuple[int, int]:
    if address.startswith("unix:"):
        return 0, 0
    _, colon, after = address.rpartition(":")
    # A number alone is a port; what is none an address or a name without one.
    match = _PORTS.fullmatch(after if colon else address)
    if match is None:
        return _DEFAULT, _DEFAULT
    first = int(match[1])
    return first, int(match[2] or first)
