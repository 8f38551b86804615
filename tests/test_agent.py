"""
Tests of the composition: which parts there are in each mode, and that they fit together.

On a reactor in memory, whose threads run at once. The master is the stand-in.
"""

from __future__ import annotations

import json
import os
import stat
from functools import partial
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import autobahn.websocket
from twisted.application.service import MultiService
from twisted.internet.address import IPv4Address
from twisted.internet.defer import maybeDeferred
from twisted.internet.error import CannotListenError, ConnectionDone
from twisted.internet.interfaces import IHostnameResolver, IReactorPluggableNameResolver
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource
from twisted.web.server import Site
from zope.interface import implementer

from mmwagent import __version__, agent
from mmwagent.agent import build
from mmwagent.host.network import Interfaces, SpeedSampler
from mmwagent.host.processes import BootTimeUnknown, Processes
from mmwagent.manage import listening
from mmwagent.manage.listening import RETRY, Listening
from mmwagent.settings import Settings
from mmwagent.settings_values import XrayServerSetting
from mmwagent.testing.faults import AnswerPush, RefuseUpgrade
from mmwagent.testing.master import StandInMaster
from mmwagent.testing.memory import MemoryNetwork
from mmwagent.uplink.service import Uplink
from mmwagent.xray.discovery import DEFAULT_PATHS, Discovery

MASTER = "http://master.test:8889"
TOKEN = "the-server-token"
CHILD = "the-child-token"
XRAY_STATS = {"inbound": {"in": {"uplink": 10, "downlink": 20}}}


@implementer(IHostnameResolver)
class Names:
    """Resolves every name to the same address, at once."""

    def resolveHostName(
        self, receiver: Any, hostName: str, portNumber: int = 0, *args: Any, **more: Any
    ) -> Any:
        """Tell `receiver`."""
        receiver.resolutionBegan(self)
        receiver.addressResolved(IPv4Address("TCP", "192.0.2.1", portNumber))
        receiver.resolutionComplete()
        return self

    def cancel(self) -> None:
        """There is nothing to cancel."""


@implementer(IReactorPluggableNameResolver)
class Reactor(MemoryReactorClock):
    """
    A reactor in memory.

    `networks` say what answers at a port; nothing answers at others. `no_ipv6` and `taken` make it
    refuse to listen. It starts no process. `done` notes what was asked of it, in order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.nameResolver = Names()
        self.networks: dict[int, MemoryNetwork] = {}
        self.no_ipv6 = self.taken = False
        self.done: list[tuple[str, Any]] = []

    def installNameResolver(self, resolver: Any) -> Any:
        """Keep the one there is."""
        return self.nameResolver

    def getThreadPool(self) -> Reactor:
        """Return itself."""
        return self

    def callInThreadWithCallback(self, told: Any, function: Any, *args: Any, **more: Any) -> None:
        """Call at once, and tell the result."""
        try:
            result = function(*args, **more)
        except Exception as error:
            told(False, Failure(error))
        else:
            told(True, result)

    def callFromThread(self, function: Any, *args: Any, **more: Any) -> None:
        """Call at once."""
        function(*args, **more)

    def spawnProcess(self, *args: Any, **more: Any) -> None:
        """Start nothing: what is installed on this machine must not matter."""
        raise OSError(11, "no processes here")

    def listenTCP(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> Any:
        """Listen, if not told otherwise."""
        self.done.append(("listen", (interface, port)))
        if self.taken or (self.no_ipv6 and ":" in interface):
            raise CannotListenError(interface, port, OSError(98, "Address already in use"))
        return super().listenTCP(port, factory, backlog, interface)

    def connectTCP(
        self, host: str, port: int, factory: Any, timeout: float = 30, bindAddress: Any = None
    ) -> Any:
        """Connect to the network at `port`, if there is one."""
        self.done.append(("connect", (host, port)))
        connector = super().connectTCP(host, port, factory, timeout, bindAddress)
        if port in self.networks:
            dialled = self.networks[port].dial(factory, "127.0.0.1")
            dialled.addErrback(partial(factory.clientConnectionFailed, connector))
            connector.stopConnecting = dialled.cancel
        return connector

    def pass_time(self, seconds: int) -> None:
        """Let time pass second by second, each network delivering all it has."""
        self.settle()
        for _ in range(seconds):
            self.advance(1)
            self.settle()

    def settle(self) -> None:
        """Have each network deliver what there is; one may cause work for another."""
        for network in (*self.networks.values(), *self.networks.values()):
            network.flush()


class AgentTests(SynchronousTestCase):
    """What the tests share: a reactor, a state directory, and the log."""

    def setUp(self) -> None:
        """Make them."""
        self.reactor = Reactor()
        self.patch(os, "environ", {"PATH": os.environ.get("PATH", "")})  # no proxy of this machine
        self.state = os.path.abspath(self.mktemp())
        self.shown: list[str] = []
        self.events: list[Any] = []
        self.patch(agent, "log", Logger(observer=self.events.append))

    def settings(self, mode: str = "auto", **more: Any) -> Settings:
        """Return settings for `mode` with a master and a token, unless `more` says otherwise."""
        usual = {
            "master_server": MASTER,
            "remote_token": TOKEN,
            "listen_port": 23889,
            "state_directory": self.state,
            "xray_servers": (XrayServerSetting(os.path.join(self.state, "none.json")),),
        }
        return Settings(connection_mode=mode, **{**usual, **more})

    def build(self, mode: str = "auto", **more: Any) -> MultiService:
        """Build the agent; it is not started."""
        return build(self.settings(mode, **more), self.reactor, self.shown.append)

    def start(self, mode: str = "auto", **more: Any) -> MultiService:
        """Build the agent and start it."""
        service = self.build(mode, **more)
        service.startService()
        return service

    def master(self) -> StandInMaster:
        """Put the stand-in at the master's port; its own deadlines never come."""
        master = StandInMaster(Clock(), {"node": TOKEN})
        self.reactor.networks[8889] = MemoryNetwork(self.reactor, master.site)
        return master

    def parts(self, service: MultiService) -> list[type]:
        """Return what the agent is made of, in the order of starting."""
        return [type(part) for part in service if type(part) in (SpeedSampler, Listening, Uplink)]

    def ask(self, target: str, token: str = TOKEN) -> tuple[int, Any]:
        """Ask the management API; return status and JSON, (0, None) for silence."""
        transport = self.connect()
        self.send(transport, target, token)
        return self.answer(transport)

    def connect(self, peer: str = "192.0.2.9") -> Any:
        """Connect to the management API."""
        _, site, _, _ = self.reactor.tcpServers[-1]
        transport: Any = StringTransport(peerAddress=IPv4Address("TCP", peer, 40000))
        transport.protocol = site.buildProtocol(transport.getPeer())
        transport.protocol.makeConnection(transport)
        return transport

    def send(self, transport: Any, target: str, token: str = TOKEN) -> None:
        """Send a request."""
        transport.protocol.dataReceived(
            f"GET {target} HTTP/1.1\r\nHost: h\r\nUser-Agent: miaomiaowux/0.1\r\n"
            f"Authorization: Bearer {token}\r\n\r\n".encode()
        )

    def answer(self, transport: Any) -> tuple[int, Any]:
        """Return what came back, and hang up."""
        head, _, body = transport.value().partition(b"\r\n\r\n")
        transport.protocol.connectionLost(Failure(ConnectionDone()))
        return (int(head.split(b" ")[1]), json.loads(body)) if head else (0, None)

    def said(self, level: LogLevel) -> list[str]:
        """Return what the composition logged at `level`."""
        return [e["log_format"].format(**e) for e in self.events if e["log_level"] is level]


class PartsTests(AgentTests):
    """Which parts there are."""

    def test_with_master_and_token(self) -> None:
        """In each mode: the speed is measured, the API opened, and only then the master called."""
        for mode in ("auto", "websocket", "http", "pull"):
            with self.subTest(mode=mode):
                self.assertEqual(self.parts(self.build(mode)), [SpeedSampler, Listening, Uplink])

    def test_door_before_master(self) -> None:
        """The port is open before the first connection: the master calls back at once."""
        for mode in ("auto", "websocket", "http", "pull"):
            with self.subTest(mode=mode):
                self.reactor.done.clear()
                service = self.start(mode)
                self.reactor.advance(0)
                self.assertEqual(
                    self.reactor.done,
                    [("listen", ("::", 23889)), ("connect", ("192.0.2.1", 8889))],
                )
                service.stopService()

    def test_building_does_nothing(self) -> None:
        """Before the start nothing is opened, dialled or timed."""
        self.build("auto")
        self.assertEqual((self.reactor.done, self.reactor.getDelayedCalls()), ([], []))

    def test_pull_without_master(self) -> None:
        """An agent that is only to be pulled calls nobody."""
        service = self.start("pull", master_server=None, remote_token=None, child_api_token=CHILD)
        self.assertEqual(self.parts(service), [SpeedSampler, Listening])
        self.reactor.pass_time(120)
        self.assertEqual(self.reactor.tcpClients, [])
        self.assertEqual(self.ask("/health"), (200, {"status": "ok", "mode": "pull"}))
        service.stopService()

    def test_pull_without_server_token(self) -> None:
        """With a master but no token for it there is nothing to tell it: it would only refuse."""
        service = self.start("pull", remote_token=None, child_api_token=CHILD)
        self.assertEqual(self.parts(service), [SpeedSampler, Listening])
        self.reactor.pass_time(120)
        self.assertEqual(self.reactor.tcpClients, [])
        service.stopService()

    def test_no_token(self) -> None:
        """Without any token the API is not opened, and a warning says so."""
        service = self.start("auto", remote_token=None)
        self.assertNotIn(Listening, self.parts(service))
        self.assertEqual(self.reactor.tcpServers, [])
        [warning] = self.said(LogLevel.warn)
        self.assertIn("management API is not opened", warning)
        self.assertIn("remote_token", warning)
        self.assertFalse(os.path.exists(self.state))
        service.stopService()

    def test_token_is_no_warning(self) -> None:
        """With a token there is nothing to warn of, and no token in the log."""
        self.build("auto", child_api_token=CHILD)
        self.assertEqual(self.said(LogLevel.warn), [])
        self.assertNotIn(TOKEN, repr(self.events))
        self.assertEqual(self.shown, [])


class StopTests(AgentTests):
    """The end."""

    def assert_clean(self, stopped: Any) -> None:
        """Check that `stopped` has come and that nothing is left to do."""
        self.reactor.settle()
        self.successResultOf(stopped)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_while_nobody_answers(self) -> None:
        """Stopped while it is still dialling, in each mode, it leaves no timer."""
        for mode in ("auto", "websocket", "http", "pull"):
            for seconds in (0, 5, 40):
                with self.subTest(mode=mode, seconds=seconds):
                    service = self.start(mode)
                    self.reactor.pass_time(seconds)
                    self.assert_clean(maybeDeferred(service.stopService))

    def test_while_all_is_well(self) -> None:
        """Stopped while it reports, it closes its connections and leaves no timer."""
        for mode in ("auto", "websocket", "http", "pull"):
            with self.subTest(mode=mode):
                self.reactor = Reactor()
                self.master()
                service = self.start(mode)
                self.reactor.pass_time(40)
                network = self.reactor.networks[8889]
                self.assertEqual(len(network.connections), 1)
                self.assert_clean(maybeDeferred(service.stopService))
                self.assertEqual(network.connections, [])

    def test_waits_for_the_goodbye(self) -> None:
        """The end of a live WebSocket is waited for, and seen by the master as an orderly one."""
        master = self.master()
        service = self.start("websocket")
        self.reactor.pass_time(5)
        stopped = maybeDeferred(service.stopService)
        self.assertNoResult(stopped)
        self.assert_clean(stopped)
        [connection] = master.agent("node").connections
        self.assertIsNotNone(connection.closed)
        self.assertIn("1000", str(connection.closed))

    def test_while_the_port_is_taken(self) -> None:
        """Stopped while the port cannot be opened, it leaves no timer."""
        self.reactor.taken = True
        service = self.start("pull", master_server=None)
        self.reactor.pass_time(int(RETRY) * 2)
        self.assertEqual(self.reactor.tcpServers, [])
        self.assert_clean(maybeDeferred(service.stopService))


def refused(master: StandInMaster) -> int:
    """Return how many upgrades to a WebSocket the master refused."""
    return sum(event.what == "upgrade" for event in master.strangers.events)


class ReportTests(AgentTests):
    """What reaches the master, in each mode."""

    def setUp(self) -> None:
        """Have a master."""
        super().setUp()
        self.stand_in = self.master()
        self.record = self.stand_in.agent("node")

    def live(self, seconds: int, mode: str, **more: Any) -> MultiService:
        """Run an agent for so long; it is stopped at the end of the test."""
        service = self.start(mode, **more)
        self.addCleanup(service.stopService)
        self.reactor.pass_time(seconds)
        return service

    def doors(self) -> set[tuple[str, str]]:
        """Return which reports were taken, and by which door."""
        return {(report.door, report.type) for report in self.record.reports if report.accepted}

    def test_auto(self) -> None:
        """In auto all goes over the WebSocket, by all rules of the wire."""
        self.live(65, "auto")
        self.assertTrue(self.stand_in.connected("node"))
        self.assertLessEqual(
            {("websocket", kind) for kind in ("heartbeat", "scan_result", "traffic", "speed")},
            self.doors(),
        )
        self.assertEqual({door for door, _ in self.doors()}, {"websocket"})
        self.assertEqual(self.stand_in.violations, [])
        self.assertEqual(self.ask("/health"), (200, {"status": "ok", "mode": "websocket"}))

    def test_http(self) -> None:
        """In http all is posted, with the headers that each endpoint wants; no WebSocket."""
        self.live(65, "http")
        self.assertEqual(
            self.doors(), {("http", kind) for kind in ("heartbeat", "traffic", "speed")}
        )
        self.assertEqual(self.stand_in.strangers.handshakes, [])
        self.assertEqual(self.stand_in.violations, [])
        self.assertEqual(self.ask("/health"), (200, {"status": "ok", "mode": "http"}))

    def test_pull(self) -> None:
        """In pull only heartbeats go out, each 30 s, so that the master goes on to pull."""
        self.live(65, "pull")
        self.assertEqual(self.doors(), {("http", "heartbeat")})
        self.assertEqual(len(self.record.of("heartbeat")), 3)
        self.assertEqual(self.stand_in.violations, [])
        self.assertEqual(self.ask("/health"), (200, {"status": "ok", "mode": "pull"}))

    def test_heartbeat_says_where_to_call(self) -> None:
        """The heartbeat carries the port of the API and a boot time that does not change."""
        for mode in ("http", "websocket"):
            with self.subTest(mode=mode):
                self.live(95, mode, listen_port=24001)
                self.assertEqual(self.record.listen_port, 24001)
                self.assertEqual(self.record.boot_time, Processes().boot_time())
                self.assertEqual(self.record.boot_count, 1)

    def test_intervals(self) -> None:
        """Each kind of report keeps its own interval of the settings."""
        self.live(
            121,
            "http",
            heartbeat_interval=20.0,
            traffic_report_interval=30.0,
            speed_report_interval=10.0,
        )
        for kind, interval in (("heartbeat", 20), ("traffic", 30), ("speed", 10)):
            with self.subTest(kind=kind):
                self.assertIn(len(self.record.of(kind)) - 120 // interval, (0, 1, 2))

    def test_patience(self) -> None:
        """In auto the first failure turns to HTTP, in websocket the fifth (README)."""
        for mode, failures in (("auto", 1), ("websocket", 5)):
            with self.subTest(mode=mode):
                self.reactor = Reactor()
                stand_in = self.master()
                stand_in.script(RefuseUpgrade(500))
                self.live(0, mode)
                for _ in range(600):
                    if stand_in.agent("node").of("heartbeat"):
                        break
                    self.reactor.pass_time(1)
                self.assertEqual(refused(stand_in), failures)

    def test_hurry(self) -> None:
        """When HTTP, having worked, fails as well, the WebSocket is tried without the wait."""
        refusal = self.stand_in.script(RefuseUpgrade(500))
        self.live(900, "auto", speed_report_interval=5.0)
        before = refused(self.stand_in)
        for _ in range(400):
            if refused(self.stand_in) > before:
                break
            self.reactor.pass_time(1)
        # By now the waits are of four minutes or more.
        self.reactor.pass_time(60)
        self.assertEqual(refused(self.stand_in), before + 1)
        self.stand_in.faults.remove(refusal)
        self.stand_in.script(AnswerPush(500))
        self.reactor.pass_time(60)
        self.assertTrue(self.stand_in.connected("node"))

    def test_degraded(self) -> None:
        """While the master cannot be reached by any way, /health says so."""
        self.reactor.networks[8889].refusing = True
        self.live(5, "auto")
        self.assertEqual(self.ask("/health"), (200, {"status": "degraded", "mode": "pull"}))


class Vars(Resource):
    """What an Xray shows at /debug/vars."""

    isLeaf = True

    def render_GET(self, request: Any) -> bytes:
        """Show it."""
        return json.dumps({"stats": XRAY_STATS}).encode()


class ManagementTests(AgentTests):
    """What the management API of a whole agent answers."""

    def xray(self) -> tuple[XrayServerSetting, ...]:
        """Set up an Xray whose counters are at port 38001."""
        os.makedirs(self.state)
        path = os.path.join(self.state, "xray.json")
        Path(path).write_text(json.dumps({"metrics": {"listen": "127.0.0.1:38001"}}))
        site = Site(Vars(), reactor=Clock())
        self.reactor.networks[38001] = MemoryNetwork(self.reactor, site)
        return (XrayServerSetting(path),)

    def run_pulled(self, **more: Any) -> MultiService:
        """Run an agent that is only to be pulled; it is stopped at the end of the test."""
        service = self.start("pull", master_server=None, **more)
        self.addCleanup(service.stopService)
        return service

    def test_traffic(self) -> None:
        """The traffic is what the Xray of the settings counts."""
        self.run_pulled(xray_servers=self.xray())
        transport = self.connect()
        self.send(transport, "/api/child/traffic")
        self.reactor.pass_time(1)
        self.assertEqual(
            self.answer(transport),
            (200, {"success": True, "stats": {**XRAY_STATS, "outbound": {}, "user": {}}}),
        )

    def test_connections_to_xray_are_closed(self) -> None:
        """The connection that is kept for the next question to Xray ends with the agent."""
        service = self.start("pull", master_server=None, xray_servers=self.xray())
        transport = self.connect()
        self.send(transport, "/api/child/traffic")
        self.reactor.pass_time(1)
        self.answer(transport)
        network = self.reactor.networks[38001]
        self.assertEqual(len(network.connections), 1)
        stopped = maybeDeferred(service.stopService)
        self.reactor.settle()
        self.successResultOf(stopped)
        self.assertEqual(network.connections, [])
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_silent_xray(self) -> None:
        """An Xray that refuses is a 503 that names its configuration."""
        servers = self.xray()
        self.reactor.networks[38001].refusing = True
        self.run_pulled(xray_servers=servers)
        transport = self.connect()
        self.send(transport, "/api/child/traffic")
        self.reactor.pass_time(1)
        status, answer = self.answer(transport)
        self.assertEqual(status, 503)
        self.assertIn("xray.json", answer["error"])

    def test_speed(self) -> None:
        """The speed comes from the one sampler, a second after the start and from then on."""
        self.run_pulled()
        transport = self.connect()
        self.send(transport, "/api/child/speed")
        self.assertEqual(transport.value(), b"")
        self.reactor.pass_time(1)
        for status, answer in (self.answer(transport), self.ask("/api/child/speed")):
            self.assertEqual(status, 200)
            self.assertEqual(set(answer), {"success", "upload_speed", "download_speed"})
            self.assertIsInstance(answer["upload_speed"], int)

    def test_speed_filters(self) -> None:
        """The interfaces that the settings leave out do not count."""
        seen: list[Any] = []

        def interfaces(clock: Any, **patterns: Any) -> Any:
            seen.append(patterns)
            return Interfaces(clock, **patterns)

        self.patch(agent, "Interfaces", interfaces)
        self.build("pull", speed_include=("eth*",), speed_exclude=("eth9",))
        self.assertEqual(seen, [{"include": ("eth*",), "exclude": ("eth9",)}])

    def test_system_info(self) -> None:
        """The facts are those of this machine, with the agent's version."""
        self.run_pulled()
        status, answer = self.ask("/api/child/system/info")
        self.assertEqual(status, 200)
        self.assertEqual(answer["hostname"], os.uname().nodename)
        self.assertEqual(answer["agent_version"], __version__)

    def test_services(self) -> None:
        """Both services are told of, whatever is installed here."""
        self.run_pulled()
        status, answer = self.ask("/api/child/services/status")
        self.assertEqual(status, 200)
        self.assertEqual(set(answer), {"success", "xray", "nginx"})
        for name in ("xray", "nginx"):
            self.assertEqual(set(answer[name]), {"installed", "running", "version"})

    def test_wrong_token(self) -> None:
        """A wrong token is met with silence."""
        self.run_pulled()
        self.assertEqual(self.ask("/api/child/system/info", "wrong"), (0, None))

    def test_child_token(self) -> None:
        """The child token of the settings opens the speed and no more."""
        self.run_pulled(child_api_token=CHILD)
        self.reactor.pass_time(1)
        self.assertEqual(self.ask("/api/child/speed", CHILD)[0], 200)
        self.assertEqual(self.ask("/api/child/system/info", CHILD), (0, None))

    def test_any_user_agent(self) -> None:
        """The setting for the master's own collector reaches the policy."""
        for lax in (False, True):
            with self.subTest(lax=lax):
                service = self.start("pull", master_server=None, pull_any_user_agent=lax)
                self.reactor.pass_time(1)
                transport = self.connect()
                transport.protocol.dataReceived(
                    b"GET /api/child/speed HTTP/1.1\r\nHost: h\r\n"
                    b"Authorization: Bearer the-server-token\r\n\r\n"
                )
                self.assertEqual(self.answer(transport)[0], 200 if lax else 0)
                service.stopService()

    def test_allow_from(self) -> None:
        """Peers outside the networks of the settings are turned away before anything else."""
        self.run_pulled(allow_from=(ip_network("10.0.0.0/8"),))
        for peer, expected in (("192.0.2.9", b""), ("::ffff:192.0.2.9", b""), ("10.1.2.3", b"HT")):
            with self.subTest(peer=peer):
                transport = self.connect(peer)
                if not transport.disconnecting:
                    self.send(transport, "/health")
                self.assertEqual(transport.value()[:2], expected)
                if expected:
                    self.answer(transport)


class AddressTests(AgentTests):
    """Where the management API listens."""

    def listened(self, **more: Any) -> list[Any]:
        """Start and stop an agent; return where it tried to listen, and what it said of it."""
        events: list[Any] = []
        self.patch(listening, "log", Logger(observer=events.append))
        self.reactor.done.clear()
        service = self.start("pull", master_server=None, **more)
        service.stopService()
        where = [event["where"] for event in events if event["log_level"] is not LogLevel.debug]
        return [*(place for verb, place in self.reactor.done if verb == "listen"), *where]

    def test_everywhere(self) -> None:
        """By default that is IPv6 and with it IPv4, on the port of the settings."""
        self.assertEqual(self.listened(), [("::", 23889), "*:23889"])
        self.assertEqual(self.listened(listen_port=24000), [("::", 24000), "*:24000"])

    def test_without_ipv6(self) -> None:
        """On a host without IPv6 it is IPv4 alone."""
        self.reactor.no_ipv6 = True
        self.assertEqual(self.listened(), [("::", 23889), ("", 23889), "*:23889"])

    def test_one_address(self) -> None:
        """An address of the settings is the only one, of either kind."""
        self.assertEqual(
            self.listened(listen_address="127.0.0.1"), [("127.0.0.1", 23889), "127.0.0.1:23889"]
        )
        self.assertEqual(self.listened(listen_address="::1"), [("::1", 23889), "[::1]:23889"])

    def test_no_silent_widening(self) -> None:
        """An IPv6 address that cannot be used is not replaced by all of IPv4."""
        self.reactor.no_ipv6 = True
        self.assertEqual(self.listened(listen_address="::1"), [("::1", 23889), "[::1]:23889"])


class MadeTokenTests(AgentTests):
    """Pull mode without any token: one is made."""

    def pulled(self) -> MultiService:
        """Build such an agent."""
        return self.build("pull", master_server=None, remote_token=None)

    def kept(self) -> str:
        """Return the token that is kept."""
        [name] = os.listdir(self.state)
        return Path(self.state, name).read_text().strip()

    def test_made_kept_and_shown(self) -> None:
        """It is kept in a file for its owner alone, and shown."""
        old = os.umask(0)
        self.addCleanup(os.umask, old)
        self.pulled()
        [shown] = self.shown
        token = self.kept()
        self.assertGreaterEqual(len(token), 32)
        self.assertIn(token, shown)
        [name] = os.listdir(self.state)
        mode = os.stat(os.path.join(self.state, name)).st_mode
        self.assertEqual(stat.S_IMODE(mode), 0o600)
        self.assertEqual(stat.S_IMODE(os.stat(self.state).st_mode), 0o700)

    def test_shown_once(self) -> None:
        """The next start takes the same one and does not show it again."""
        self.pulled()
        token = self.kept()
        self.pulled()
        self.assertEqual(len(self.shown), 1)
        self.assertEqual(self.kept(), token)

    def test_opens_the_door(self) -> None:
        """It opens the whole API, being the only token."""
        service = self.pulled()
        service.startService()
        self.addCleanup(service.stopService)
        self.assertEqual(self.ask("/api/child/system/info", self.kept())[0], 200)
        self.assertEqual(self.ask("/api/child/system/info", "wrong"), (0, None))
        self.assertEqual(self.parts(service), [SpeedSampler, Listening])

    def test_not_logged(self) -> None:
        """The log says where it is kept, at each start, and never what it is."""
        self.pulled()
        self.pulled()
        self.assertNotIn(self.kept(), repr(self.events))
        for text in self.said(LogLevel.info)[:1]:
            self.assertIn(self.state, text)
        self.assertEqual(self.said(LogLevel.warn), [])

    def test_only_then(self) -> None:
        """A token in the settings, or another mode, makes none."""
        self.build("pull", master_server=None)
        self.build("pull", master_server=None, remote_token=None, child_api_token=CHILD)
        self.build("auto", remote_token=None)
        self.assertEqual(self.shown, [])
        self.assertFalse(os.path.exists(self.state))


class TroubleTests(AgentTests):
    """What makes it impossible to start, and what is only said."""

    def test_state_directory(self) -> None:
        """A state directory that cannot be made is an OSError."""
        Path(self.state).write_text("a file in its place")
        with self.assertRaises(OSError):
            self.build("pull", master_server=None, remote_token=None)

    def test_ca_file(self) -> None:
        """A CA file that has gone since the settings were read is an OSError."""
        with self.assertRaises(FileNotFoundError):
            self.build("auto", tls_ca_file=os.path.join(self.state, "gone.pem"))

    def test_boot_time(self) -> None:
        """A machine that does not tell when it started is a BootTimeUnknown, before any start."""

        def unknown(processes: Processes) -> None:
            raise BootTimeUnknown("no btime line in /proc/stat")

        self.patch(Processes, "boot_time", unknown)
        with self.assertRaises(BootTimeUnknown):
            self.build("auto")

    def test_slow_autobahn(self) -> None:
        """Autobahn without its native code is told once, at info; with it, or unknown, nothing."""
        if not hasattr(autobahn.websocket, "USES_NVX"):  # older ones do not tell
            autobahn.websocket.USES_NVX = None
            self.addCleanup(delattr, autobahn.websocket, "USES_NVX")
        for has, said in ((False, 1), (True, 0), (None, 0)):
            with self.subTest(has=has):
                self.events.clear()
                self.patch(autobahn.websocket, "USES_NVX", has)
                self.build("auto")
                self.assertEqual(len(self.said(LogLevel.info)), said)

    def test_discovery(self) -> None:
        """Xray is looked for where the settings say, or else at the README's three paths."""
        seen: list[tuple[Any, bool]] = []

        def discovery(paths: Any, configured: bool) -> Any:
            seen.append((paths, configured))
            return Discovery(paths, configured)

        self.patch(agent, "Discovery", discovery)
        self.build("auto", xray_servers=())
        self.build("auto", xray_servers=(XrayServerSetting("/a"), XrayServerSetting("/b")))
        self.assertEqual(seen, [(DEFAULT_PATHS, False), (("/a", "/b"), True)])


class SecureMasterTests(AgentTests):
    """A master behind TLS."""

    def test_tls_is_spoken(self) -> None:
        """To https:// the first bytes are a TLS ClientHello for the master's name."""
        for mode in ("auto", "http"):
            with self.subTest(mode=mode):
                service = self.start(mode, master_server="https://master.test")
                self.reactor.advance(0)
                host, port, factory, _, _ = self.reactor.tcpClients[-1]
                self.assertEqual((host, port), ("192.0.2.1", 443))
                transport: Any = StringTransport()
                protocol = factory.buildProtocol(IPv4Address("TCP", host, port))
                transport.setTcpNoDelay = lambda enabled: None
                protocol.makeConnection(transport)
                self.assertEqual(transport.value()[:2], b"\x16\x03")
                self.assertIn(b"master.test", transport.value())
                self.assertNotIn(TOKEN.encode(), transport.value())
                protocol.connectionLost(Failure(ConnectionDone()))
                service.stopService()
