"""The composition root: the only place that knows every part of the agent."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

import autobahn.websocket
from treq.client import HTTPClient
from twisted.application.service import MultiService, Service
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import (
    TCP4ClientEndpoint,
    TCP4ServerEndpoint,
    TCP6ClientEndpoint,
    TCP6ServerEndpoint,
)
from twisted.internet.interfaces import IStreamClientEndpoint, IStreamServerEndpoint
from twisted.internet.threads import deferToThreadPool
from twisted.web.client import Agent, HTTPConnectionPool

from mmwagent import __version__
from mmwagent.credentials import Credentials, kept_child_api_token
from mmwagent.host import command, programs
from mmwagent.host.facts import Facts
from mmwagent.host.latency import Prober
from mmwagent.host.network import Interfaces, SpeedSampler
from mmwagent.host.processes import Processes
from mmwagent.host.programs import ProgramState
from mmwagent.host.resolving import resolver
from mmwagent.logs import logger
from mmwagent.manage.gate import USER_AGENT, Gate
from mmwagent.manage.listening import Listening
from mmwagent.manage.probes import ProbesResource
from mmwagent.manage.pull import PullResource
from mmwagent.manage.routes import resource, routes
from mmwagent.manage.services import ServicesResource
from mmwagent.manage.silence import SilentSite
from mmwagent.manage.system import SystemResource
from mmwagent.rotation import Rotation
from mmwagent.settings import Settings
from mmwagent.status import Status
from mmwagent.token_store import TokenStore
from mmwagent.uplink.address import MasterAddress, OneWay, endpoint_to, trust_root
from mmwagent.uplink.backoff import Backoff
from mmwagent.uplink.link import BARRED, Link
from mmwagent.uplink.measures import Measures
from mmwagent.uplink.orders import NoCertificates, Orders
from mmwagent.uplink.proxy import Proxy, UnusableProxy, proxy_for
from mmwagent.uplink.push import Push
from mmwagent.uplink.refresh import TokenRefresh
from mmwagent.uplink.reporter import Cadence
from mmwagent.uplink.reporting import Reporting
from mmwagent.uplink.service import Uplink
from mmwagent.uplink.websocket import Dialer
from mmwagent.xray.discovery import DEFAULT_PATHS, Discovery
from mmwagent.xray.inspection import Inspection
from mmwagent.xray.metrics import Metrics

log = logger()

BACKLOG = 1000  # with Twisted's 50 a burst of strangers could keep the master from connecting
PATIENCE = {"auto": 1, "websocket": 5}  # failures in a row before the reports go another way


def build(settings: Settings, reactor: Any, show: Callable[[str], None]) -> MultiService:
    """
    Return the agent as a service that does what `settings` say.

    `show` is given what a person has to see once and no log may keep. Raises OSError where a
    state directory or a CA file that is needed cannot be used, BootTimeUnknown where the machine
    does not tell when it started.
    """
    return _Parts(settings, reactor, show).compose()


class _Parts:
    """The parts that several others share."""

    def __init__(self, settings: Settings, reactor: Any, show: Callable[[str], None]) -> None:
        self.settings = settings
        self.reactor = reactor
        self.agent = MultiService()
        store = TokenStore(
            settings.remote_token,
            settings.path if settings.token_from == "file" else None,
            settings.state_directory,
        )
        self.credentials = _credentials(settings, store, show)
        self.rotation = Rotation(self.credentials, partial(self.in_thread, store.save))
        self.processes = Processes()
        self.inspection = Inspection(_discovery(settings), self.processes)
        run = partial(command.run, reactor)
        self.xray = programs.xray(run)
        self.nginx = programs.nginx(run)
        interfaces = Interfaces(
            reactor, include=settings.speed_include, exclude=settings.speed_exclude
        )
        self.sampler = SpeedSampler(reactor, settings.speed_report_interval, interfaces.read)
        self.metrics = Metrics(
            reactor,
            Agent(reactor, pool=self.pool()),
            partial(self.in_thread, self.inspection.discovery.look),
        )
        self.facts = Facts(boot_time=self.processes.boot_time)
        self.prober = Prober(reactor, resolver(reactor), self._client_endpoint)

    def compose(self) -> MultiService:
        self.sampler.setServiceParent(self.agent)
        reporting = None
        uplink = None
        # In pull mode either may be missing; a report without a token is only refused.
        if self.settings.master_server is not None and self.credentials.server_token:
            uplink, reporting = self._uplink(MasterAddress(self.settings.master_server))
        door = (lambda: reporting.door) if reporting is not None else (lambda: "pull")
        # The door first: as soon as the master hears of us it calls back.
        if self.credentials.any():
            self._management(door).setServiceParent(self.agent)
        else:
            log.warn("the management API is not opened: there is no remote_token to protect it")
        if uplink is not None:
            uplink.setServiceParent(self.agent)
        _say_what_is_slow()
        return self.agent

    def in_thread(self, function: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
        return deferToThreadPool(self.reactor, self.reactor.getThreadPool(), function, *arguments)

    def pool(self) -> HTTPConnectionPool:
        pool = _Pool(self.reactor)
        pool.setServiceParent(self.agent)
        return pool.connections

    # Outbound.

    def _uplink(self, address: MasterAddress) -> tuple[Uplink, Reporting]:
        settings, reactor = self.settings, self.reactor
        trust = trust_root(settings.tls_ca_file)
        way = endpoint_to(reactor, address, trust, self._proxy(address))
        user_agent = USER_AGENT.decode("ascii")
        web = Agent.usingEndpointFactory(reactor, OneWay(way), self.pool())
        push = Push(reactor, HTTPClient(web), address, self._token, user_agent)
        orders = Orders(self.rotation.rotate, self.prober, NoCertificates())
        slow = partial(Backoff, random.random, base=BARRED * 1.25)
        reporting = Reporting(
            reactor,
            Cadence(
                settings.heartbeat_interval,
                settings.traffic_report_interval,
                settings.speed_report_interval,
            ),
            self._measures(),
            push,
            slow(),
            lambda: link.hurry(),
            TokenRefresh(reactor, push, self.rotation.rotate).heard,
        )
        link = Link(
            reactor,
            Dialer(reactor, address.websocket, user_agent, way),
            self._token,
            orders.take,
            reporting,
            Backoff(random.random),
            slow(),
            PATIENCE.get(settings.connection_mode, 1),
        )
        return Uplink(settings.connection_mode, link, reporting, push), reporting

    def _proxy(self, address: MasterAddress) -> Proxy | None:
        try:
            proxy = proxy_for(address.host, address.port, address.secure, os.environ)
        except UnusableProxy as problem:
            log.error("{problem}; the master is dialled directly", problem=str(problem))
            return None
        if proxy is not None:
            log.info("the master is dialled by the proxy {host}", host=proxy.host)
        return proxy

    def _token(self) -> str:
        return self.credentials.server_token or ""

    def _measures(self) -> Measures:
        return Measures(
            boot_time=self.processes.boot_time(),
            listen_port=self.settings.listen_port,
            now=_now,
            inspect=partial(self.in_thread, self.inspection.now),
            counters=self.metrics.traffic,
            sample=self.sampler.speed,
            xray=self.xray,
        )

    # Inbound.

    def _management(self, door: Callable[[], str]) -> Listening:
        settings = self.settings
        table = routes(
            PullResource(self.metrics.traffic, self.sampler.speed),
            ServicesResource(self._service_states),
            ProbesResource(self.prober),
            SystemResource(
                partial(self.in_thread, self.facts.collect),
                lambda: Status(__version__, settings.connection_mode, door()),
            ),
        )
        gate = Gate(self.credentials, settings.pull_any_user_agent)
        site = SilentSite(resource(table), gate.authorise, self.reactor, allow=settings.allow_from)
        host = settings.listen_address or "*"
        where = f"{f'[{host}]' if ':' in host else host}:{settings.listen_port}"
        return Listening(self.reactor, self._server_endpoints, site, where)

    def _client_endpoint(self, host: str, port: int, timeout: float) -> IStreamClientEndpoint:
        sort = TCP6ClientEndpoint if ":" in host else TCP4ClientEndpoint
        return sort(self.reactor, host, port, timeout)

    def _server_endpoints(self) -> list[IStreamServerEndpoint]:
        address, port = self.settings.listen_address, self.settings.listen_port
        six = TCP6ServerEndpoint(self.reactor, port, BACKLOG, address or "::")
        four = TCP4ServerEndpoint(self.reactor, port, BACKLOG, address)
        if address:
            return [six if ":" in address else four]
        # The first serves IPv4 as well; the second is for a host without IPv6.
        return [six, four]

    async def _service_states(self) -> dict[str, ProgramState]:
        xray = await self.in_thread(self.inspection.now)
        nginx = await self.in_thread(self.processes.named, self.nginx.name)
        return {
            "xray": await self.xray.state(xray.processes),
            "nginx": await self.nginx.state(nginx),
        }


class _Pool(Service):
    """Connections that are kept from one request to the next, and closed at the end."""

    def __init__(self, reactor: Any) -> None:
        self.connections = HTTPConnectionPool(reactor)

    def stopService(self) -> Deferred[None]:
        """Close them."""
        super().stopService()
        closed: Deferred[None] = self.connections.closeCachedConnections()
        return closed


def _credentials(
    settings: Settings, store: TokenStore, show: Callable[[str], None]
) -> Credentials:
    server_token = store.kept() or settings.remote_token
    credentials = Credentials(server_token, settings.child_api_token)
    if not credentials.any() and settings.connection_mode == "pull":
        token, made = kept_child_api_token(settings.state_directory)
        credentials.child_api_token = token
        if made:
            show(f"A token for the management API was made, and is shown this once: {token}")
        log.info(
            "no token is configured: the management API takes the one kept in {directory}",
            directory=settings.state_directory,
        )
    return credentials


def _discovery(settings: Settings) -> Discovery:
    named = tuple(server.config_path for server in settings.xray_servers)
    return Discovery(named or DEFAULT_PATHS, configured=bool(named))


def _now() -> datetime:
    return datetime.now(UTC)


def _say_what_is_slow() -> None:
    # Without it a report of 10,000 users stops everything else for 70 ms.
    if getattr(autobahn.websocket, "USES_NVX", None) is False:
        log.info("Autobahn runs without its native code: big reports take longer")
