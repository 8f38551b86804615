"""The master's address: the URLs of its doors, and the way to them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from attrs import frozen
from OpenSSL.crypto import FILETYPE_PEM
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.ssl import (
    Certificate,
    optionsForClientTLS,
    platformTrust,
    trustRootFromCertificates,
)
from twisted.web.client import URI
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

from mmwagent.uplink.proxy import Proxy, Tunnel

CONNECT_DEADLINE = 15.0  # seconds, for one attempt over all addresses of the name

# Twisted names its interface for this in a private module only.
TrustRoot = Any

_PEM_END = b"-----END CERTIFICATE-----"


@frozen
class MasterAddress:
    """Where the master is: `base` is http(s)://host[:port][/path], without a slash at its end."""

    base: str

    @property
    def secure(self) -> bool:
        """Tell whether TLS is spoken."""
        return self.base.startswith("https:")

    @property
    def host(self) -> str:
        """Return the host, an IPv6 one without brackets."""
        return urlsplit(self.base).hostname or ""

    @property
    def port(self) -> int:
        """Return the port, the scheme's own where none is given."""
        return urlsplit(self.base).port or (443 if self.secure else 80)

    @property
    def authority(self) -> str:
        """Return host and port as the Host header has them."""
        return urlsplit(self.base).netloc

    @property
    def websocket(self) -> str:
        """Return the URL of the WebSocket."""
        return f"ws{self.base.removeprefix('http')}/api/remote/ws"

    def report(self, name: str) -> str:
        """
        Return the URL to push a report of the type `name` to.

        For an IPv6 literal it holds a name in its place, since treq cannot read such a URL. The
        way there does not depend on it, and the Host header is given beside it.
        """
        base = self.base
        if ":" in self.host:
            base = base.replace(f"[{self.host}]", "ipv6-literal.invalid", 1)
        return f"{base}/api/remote/{name}"


def trust_root(ca_file: str | None) -> TrustRoot:
    """
    Return whom to trust: the certificates in `ca_file` alone, or else the system's authorities.

    Raises OSError or OpenSSL's error where the file is of no use.
    """
    if ca_file is None:
        return platformTrust()
    parts = Path(ca_file).read_bytes().split(_PEM_END)[:-1]
    authorities = [Certificate.load(part + _PEM_END, FILETYPE_PEM) for part in parts]
    return trustRootFromCertificates(authorities)


def endpoint_to(
    reactor: Any, address: MasterAddress, trust: TrustRoot, proxy: Proxy | None = None
) -> Callable[[], IStreamClientEndpoint]:
    """Return what makes an endpoint for each attempt: names are resolved anew by each."""

    def make() -> IStreamClientEndpoint:
        endpoint = _directly(reactor, address.host, address.port)
        if proxy is not None:
            way = _directly(reactor, proxy.host, proxy.port)
            endpoint = Tunnel(reactor, way, proxy, address.host, address.port)
        if not address.secure:
            return endpoint
        return wrapClientTLS(optionsForClientTLS(address.host, trustRoot=trust), endpoint)

    return make


def _directly(reactor: Any, host: str, port: int) -> IStreamClientEndpoint:
    # Races the addresses of a name, IPv6 and IPv4 (RFC 8305).
    return HostnameEndpoint(reactor, host.encode("idna"), port, timeout=CONNECT_DEADLINE)


@implementer(IAgentEndpointFactory)
@frozen
class OneWay:
    """Has an HTTP agent take the same way for every URL: there is one master."""

    make: Callable[[], IStreamClientEndpoint]

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        """Return a new endpoint."""
        return self.make()
