"""The composition root: the only place that knows every part of the agent."""

from __future__ import annotations

import os
import random
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import autobahn.websocket
from attrs import frozen
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
from mmwagent.host.backups import Backups
from mmwagent.host.facts import Facts
from mmwagent.host.latency import Prober
from mmwagent.host.launching import Launch
from mmwagent.host.network import Interfaces, SpeedSampler
from mmwagent.host.ports import first_free
from mmwagent.host.processes import Process, Processes
from mmwagent.host.resolving import resolver
from mmwagent.host.services import services
from mmwagent.host.unmanaged import Unmanaged
from mmwagent.logs import logger
from mmwagent.manage.control import Action, Control
from mmwagent.manage.gate import USER_AGENT, Gate
from mmwagent.manage.listening import Listening
from mmwagent.manage.nginx import NginxResource
from mmwagent.manage.probes import ProbesResource
from mmwagent.manage.pull import PullResource
from mmwagent.manage.routes import resource, routes
from mmwagent.manage.services import ControlResource, ServicesResource
from mmwagent.manage.silence import SilentSite
from mmwagent.manage.sites import SitesResource
from mmwagent.manage.system import SystemResource
from mmwagent.manage.xray import XrayResource
from mmwagent.nginx.apply import NginxApply
from mmwagent.nginx.layout import Layouts, layouts
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
from mmwagent.uplink.restarts import ReportedRestarts
from mmwagent.uplink.service import Uplink
from mmwagent.uplink.websocket import Dialer
from mmwagent.xray.apply import XrayApply
from mmwagent.xray.check import XrayCheck
from mmwagent.xray.discovery import DEFAULT_PATHS, Discovery
from mmwagent.xray.inspection import Inspection, XrayNow
from mmwagent.xray.metrics import Metrics
from mmwagent.xray.places import Places
from mmwagent.xray.start import XrayStart

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
        self.run = run
        self.state = Path(settings.state_directory)
        self.backups = Backups(self.state / "backups")
        self.xray_start = XrayStart(self.xray, self.inspection, run, self.in_thread)

    def compose(self) -> MultiService:
        self.sampler.setServiceParent(self.agent)
        reporting = None
        uplink = None
        # In pull mode either may be missing; a report without a token is only refused.
        if self.settings.master_server is not None and self.credentials.server_token:
            uplink, reporting = self._uplink(MasterAddress(self.settings.master_server))
        # The door first: as soon as the master hears of us it calls back.
        if self.credentials.any():
            self._management(reporting).setServiceParent(self.agent)
        else:
            log.warn("the management API is not opened: there is no remote_token to protect it")
        if uplink is not None:
            uplink.setServiceParent(self.agent)
        _say_what_is_slow()
        return self.agent

    def in_thread(
        self, function: Callable[..., Any], *arguments: Any, **named: Any
    ) -> Deferred[Any]:
        pool = self.reactor.getThreadPool()
        return deferToThreadPool(self.reactor, pool, function, *arguments, **named)

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

    def _management(self, reporting: Reporting | None) -> Listening:
        settings = self.settings
        # Each needs the other: a file is reloaded by the control, which has the files checked.
        nginx_files = self._nginx_files(lambda: control)
        control = self._control(nginx_files, reporting)
        table = routes(
            pull=PullResource(self.metrics.traffic, self.sampler.speed),
            services=ServicesResource(control.states),
            control=ControlResource(control.act),
            xray=self._xray_resource(control),
            nginx=NginxResource(nginx_files, self.in_thread, _now),
            sites=SitesResource(self.prober, self.in_thread),
            probes=ProbesResource(self.prober),
            system=SystemResource(
                partial(self.in_thread, self.facts.collect),
                lambda: Status(
                    __version__,
                    settings.connection_mode,
                    "pull" if reporting is None else reporting.door,
                ),
            ),
        )
        gate = Gate(self.credentials, settings.pull_any_user_agent)
        site = SilentSite(resource(table), gate.authorise, self.reactor, allow=settings.allow_from)
        host = settings.listen_address or "*"
        where = f"{f'[{host}]' if ':' in host else host}:{settings.listen_port}"
        return Listening(self.reactor, self._server_endpoints, site, where)

    def _control(self, nginx_files: NginxApply, reporting: Reporting | None) -> Control:
        unmanaged = Unmanaged(self.reactor, self.run, self._running, self._launch, self.state)
        around: Callable[[Action], Awaitable[None]] = _plainly
        if reporting is not None:
            around = ReportedRestarts(self.reactor, reporting.report_traffic).around
        return Control(
            self.reactor,
            services(self.run, unmanaged=unmanaged),
            {"xray": self.xray, "nginx": self.nginx},
            self._running,
            {"xray": self.xray_start.check, "nginx": nginx_files.check},
            around,
        )

    async def _running(self, service: str) -> Sequence[Process]:
        if service == self.xray.name:
            xray: XrayNow = await self.in_thread(self.inspection.now)
            return xray.processes
        found: list[Process] = await self.in_thread(self.processes.named, service)
        return found

    async def _launch(self, service: str) -> Launch | None:
        if service == self.xray.name:
            return await self.xray_start.launch()
        layout = await self._nginx_layouts()()
        return Launch(tuple(layout.command()))

    def _nginx_layouts(self) -> Layouts:
        return layouts(self.nginx.binary, self._nginx_processes, self.run)

    async def _nginx_processes(self) -> list[Process]:
        return list(await self._running(self.nginx.name))

    def _nginx_files(self, control: Callable[[], Control]) -> NginxApply:
        return NginxApply(
            self._nginx_layouts(),
            self.run,
            _Later(control),
            self._nginx_processes,
            self.in_thread,
            self.reactor,
            self.backups,
        )

    def _xray_resource(self, control: Control) -> XrayResource:
        inspect = partial(self.in_thread, self.inspection.now)
        check = XrayCheck(self.xray, self.run, inspect, self.in_thread)
        apply = XrayApply(
            check.check, inspect, partial(control.restart, "xray"), self.backups, self.in_thread
        )
        places = Places(self.inspection.discovery)
        return XrayResource(places, inspect, self.xray, apply, first_free, self.in_thread)

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


@frozen
class _Later:
    """The control, once it is there."""

    control: Callable[[], Control]

    async def reload(self, service: str) -> None:
        await self.control().reload(service)


async def _plainly(action: Callable[[], Awaitable[None]]) -> None:
    """Restart without reports around it: there is no master to get them."""
    await action()


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
