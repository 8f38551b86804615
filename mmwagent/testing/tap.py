"""`twistd -n mmw-standin-master`: a stand-in master on a port, to try an agent against."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import (
    SSL4ServerEndpoint,
    TCP4ServerEndpoint,
    TCP6ServerEndpoint,
    serverFromString,
)
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint
from twisted.internet.ssl import Certificate, CertificateOptions, PrivateCertificate
from twisted.python.failure import Failure
from twisted.python.usage import Options as UsageOptions
from twisted.python.usage import UsageError
from twisted.web.client import Agent

from mmwagent.logs import logger
from mmwagent.testing.journal import journal
from mmwagent.testing.master import StandInMaster

log = logger()

ENDPOINTS = ("tcp", "tcp6", "unix", "ssl", "systemd", "haproxy")
DEMO_NAME = "demo"
DEMO_TOKEN = "standin-demo-token"
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.S)
REMEMBERED = 500
"""Reports kept of each agent: a stand-in may run for days."""


class Options(UsageOptions):
    """What `twistd mmw-standin-master` takes."""

    optParameters = [  # noqa: RUF012
        ["listen", "l", "127.0.0.1:8889", "HOST:PORT or a Twisted endpoint description."],
        ["certificate", None, None, "PEM file with the certificate chain, to serve TLS."],
        ["key", None, None, "PEM file with the certificate's private key."],
    ]
    optFlags = [["quiet", "q", "Do not log each report."]]  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self.servers: dict[str, str] = {}

    def opt_token(self, value: str) -> None:
        """Know an agent by NAME=TOKEN, or by TOKEN alone. May be given again."""
        name, equals, token = value.partition("=")
        if not equals or not token.strip("="):  # base64 tokens may end with "="
            name, token = f"agent-{len(self.servers) + 1}", value
        if not name or not token.strip():
            raise UsageError("--token has an empty name or token; it is NAME=TOKEN or TOKEN")
        if name in self.servers or token in self.servers.values():
            raise UsageError("--token was given twice with the same name or token")
        self.servers[name] = token

    def postOptions(self) -> None:
        """See that the options go together, and read the address."""
        if bool(self["certificate"]) != bool(self["key"]):
            raise UsageError("--certificate and --key go together")
        for name in ("certificate", "key"):
            if self[name] and not Path(self[name]).is_file():
                raise UsageError(f"--{name} {self[name]}: there is no such file")
        self.address = parse_address(self["listen"])
        if self.address is None and self["certificate"]:
            raise UsageError("with an endpoint description, put the certificate into it (ssl:...)")
        if self.address is None:
            check_endpoint(self["listen"])
        self.tls = load_tls(self["certificate"], self["key"]) if self["certificate"] else None


def parse_address(text: str) -> tuple[str, int] | None:
    """Return host and port of "HOST:PORT"; None where it is an endpoint description."""
    host, _, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not bracketed and ("=" in text or text.split(":")[0] in ENDPOINTS):
        return None
    if not bracketed and ":" in host:
        raise UsageError(f"--listen {text!r}: put an IPv6 address into brackets")
    if not host.strip("[]") or not port.isdecimal() or not 0 <= int(port) <= 65535:
        raise UsageError(f"--listen {text!r} is neither HOST:PORT nor an endpoint description")
    return host.strip("[]"), int(port)


def check_endpoint(description: str) -> None:
    """Raise UsageError where Twisted can make nothing of an endpoint description."""
    nowhere: Any = object()
    try:
        serverFromString(nowhere, description)
    except Exception as error:  # each kind of endpoint has its own ways to fail
        raise UsageError(f"--listen {description!r}: {error}") from error


def load_tls(certificate: str, key: str) -> CertificateOptions:
    """Return the TLS side of a certificate chain and its key, both PEM files."""
    try:
        chain = Path(certificate).read_text()
        pair = PrivateCertificate.loadPEM(chain + "\n" + Path(key).read_text())
        others = _CERTIFICATE.findall(chain)[1:]
        return CertificateOptions(
            privateKey=pair.privateKey.original,
            certificate=pair.original,
            extraCertChain=[Certificate.loadPEM(other).original for other in others],
        )
    except Exception as error:  # OpenSSL's own errors have no common base
        raise UsageError(f"--certificate {certificate}, --key {key}: {error}") from error


class Listening(Service):
    """Opens the port, says so, and closes everything at the end. `give_up` is for no port."""

    def __init__(
        self,
        endpoint: IStreamServerEndpoint,
        master: StandInMaster,
        give_up: Callable[[], None],
    ) -> None:
        self._endpoint = endpoint
        self._master = master
        self._give_up = give_up
        self._port: IListeningPort | None = None

    def startService(self) -> None:
        """Listen."""
        super().startService()
        self._endpoint.listen(self._master.site).addCallbacks(self._listening, self._failed)

    def stopService(self) -> Deferred[Any] | None:
        """Stop listening and cut what is connected."""
        super().stopService()
        self._master.stop()
        port, self._port = self._port, None
        return None if port is None else port.stopListening()

    def _listening(self, port: IListeningPort) -> None:
        self._port = port
        host: Any = port.getHost()
        address = f"{host.host}:{host.port}" if hasattr(host, "port") else str(host)
        log.info("stand-in master listens on {address}", address=address)
        for record in self._master.agents:
            log.info("it knows the agent {name}", name=record.name)

    def _failed(self, failure: Failure) -> None:
        log.error("stand-in master cannot listen: {reason}", reason=failure.getErrorMessage())
        self._give_up()


def makeService(options: Options) -> Service:
    """Build the service. Without tokens there is one agent, "demo", whose token is printed."""
    from twisted.internet import reactor as global_reactor

    reactor: Any = global_reactor
    servers = options.servers or {DEMO_NAME: DEMO_TOKEN}
    master = StandInMaster(reactor, servers, web=Agent(reactor), keep=REMEMBERED)
    if not options.servers:
        print(f"No --token was given; the agent's token is {DEMO_TOKEN}")
    if not options["quiet"]:
        master.observe(journal)
    endpoint = make_endpoint(reactor, options)
    return Listening(endpoint, master, lambda: reactor.callWhenRunning(reactor.stop))


def make_endpoint(reactor: Any, options: Options) -> IStreamServerEndpoint:
    """Return the endpoint to listen on."""
    if options.address is None:
        described: IStreamServerEndpoint = serverFromString(reactor, options["listen"])
        return described
    host, port = options.address
    if options.tls is not None:
        return SSL4ServerEndpoint(reactor, port, options.tls, interface=host)
    if ":" in host:
        return TCP6ServerEndpoint(reactor, port, interface=host)
    return TCP4ServerEndpoint(reactor, port, interface=host)
