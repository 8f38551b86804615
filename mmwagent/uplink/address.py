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
from twisted.web.client import BrowserLikePolicyForHTTPS

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
    def websocket(self) -> str:
        """Return the URL of the WebSocket."""
        return f"ws{self.base.removeprefix('http')}/api/remote/ws"

    def report(self, name: str) -> str:
        """Return the URL to push a report of the type `name` to."""
        return f"{self.base}/api/remote/{name}"


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
    reactor: object, address: MasterAddress, trust: TrustRoot
) -> Callable[[], IStreamClientEndpoint]:
    """Return what makes an endpoint for each attempt: names are resolved anew by each."""

    def make() -> IStreamClientEndpoint:
        plain = HostnameEndpoint(
            reactor, address.host.encode("idna"), address.port, timeout=CONNECT_DEADLINE
        )
        if not address.secure:
            return plain
        return wrapClientTLS(optionsForClientTLS(address.host, trustRoot=trust), plain)

    return make


def https_policy(trust: TrustRoot) -> BrowserLikePolicyForHTTPS:
    """Return the policy by which an HTTP agent verifies the master: as `endpoint_to` does."""
    return BrowserLikePolicyForHTTPS(trust)
