"""The stand-in master as a whole: mmwagent.testing.master."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import treq
import trustme
from autobahn.twisted.websocket import WebSocketClientFactory
from twisted.internet import reactor as global_reactor  # noqa: TID251
from twisted.internet.defer import CancelledError, Deferred, inlineCallbacks
from twisted.internet.endpoints import (
    SSL4ServerEndpoint,
    TCP4ClientEndpoint,
    TCP4ServerEndpoint,
    wrapClientTLS,
)
from twisted.internet.ssl import Certificate, optionsForClientTLS
from twisted.trial.unittest import TestCase
from twisted.web.client import Agent, HTTPConnectionPool

from mmwagent.testing.faults import DropSession, HangPush, RefuseUpgrade, SilentUpgrade
from mmwagent.testing.master import StandInMaster
from mmwagent.testing.panel import UnknownAgent
from mmwagent.testing.records import AgentRecord
from mmwagent.testing.tap import load_tls
from tests.testing.scene import BEAT, BODY_BEAT, HEADERS, NAME, TOKEN, UA, Peer, Scene, stats

reactor: Any = global_reactor

# txaio cuts its timers down to whole seconds: Autobahn's own 1 s may be over at once.
CLOSE_TIMEOUT = 20


def closed(record: AgentRecord) -> bool:
    """Tell whether the last thing that happened to an agent is that its connection ended."""
    return bool(record.events) and record.events[-1].what == "closed"


class KnowledgeTests(Scene):
    """Agents and their records."""

    def test_agents(self) -> None:
        """Agents are found by name or token; whoever else is asked for is unknown."""
        self.assertIs(self.master.agent(NAME), self.master.agent(TOKEN))
        self.assertEqual([record.name for record in self.master.agents], [NAME])
        self.assertRaises(UnknownAgent, self.master.agent, "who")

    def test_bad_servers(self) -> None:
        """Two agents of one name or token, and empty tokens, are refused."""
        for name, token in ((NAME, "x"), ("x", TOKEN), ("x", ""), ("x", " y ")):
            self.assertRaises(ValueError, self.master.add_server, name, token)
        self.assertEqual(len(self.master.agents), 1)

    def test_violations(self) -> None:
        """The breaches of all are in one list, in order of time."""
        self.push("traffic", stats(1))
        self.clock.advance(1)
        self.dial(agent="curl")
        self.clock.advance(1)
        self.push("speed", {"upload_speed": 1})
        self.assertEqual(self.rules, ["order", "user-agent", "missing"])

    def test_a_good_agent(self) -> None:
        """An agent that keeps the rules over both doors leaves no violation."""
        peer = self.running()
        self.tell(peer, "scan_result", {"xray_running": True, "inbounds": []})
        for count in range(3):
            self.tell(peer, "traffic", stats(count))
            self.tell(peer, "speed", {"upload_speed": count, "download_speed": 0})
            self.tell(peer, "heartbeat", BEAT)
        peer.sendClose(1000)
        self.network.flush()
        self.push("heartbeat", BODY_BEAT)
        self.push("traffic", stats(10))
        self.assertEqual(self.master.violations, [])


class WaitingTests(Scene):
    """Waiting for what is to come."""

    def test_when(self) -> None:
        """It fires at the next event that fits, not for what was before."""
        self.push("heartbeat", BODY_BEAT)
        waiter = self.master.when(lambda record: record.heartbeat is not None)
        self.assertNoResult(waiter)
        self.push("speed", {"upload_speed": 1, "download_speed": 1})
        self.assertIs(self.successResultOf(waiter), self.record)

    def test_when_not_yet(self) -> None:
        """Events that do not fit leave it waiting."""
        waiter = self.master.when(lambda record: len(record.of("speed")) == 2)
        for expected in (False, True):
            self.push("speed", {"upload_speed": 1, "download_speed": 1})
            self.assertEqual(waiter.called, expected)

    def test_when_strangers(self) -> None:
        """Handshakes and breaches are events too."""
        handshake = self.master.when(lambda record: bool(record.handshakes))
        breach = self.master.when(lambda record: bool(record.violations))
        self.dial()
        self.assertIs(self.successResultOf(handshake), self.master.strangers)
        self.assertNoResult(breach)
        self.dial(agent="curl")
        self.assertIs(self.successResultOf(breach), self.master.strangers)

    def test_until(self) -> None:
        """`until` fires at once for what is so already, else as `when`."""
        waiter = self.master.until(lambda record: record.heartbeat is not None)
        self.assertNoResult(waiter)
        self.push("heartbeat", BODY_BEAT)
        self.successResultOf(waiter)
        self.successResultOf(self.master.until(lambda record: record.heartbeat is not None))

    def test_cancelled(self) -> None:
        """A waiter that is cancelled waits no more."""
        waiter = self.master.when(lambda record: True)
        waiter.cancel()
        self.failureResultOf(waiter, CancelledError)
        self.dial()

    def test_order_at_once(self) -> None:
        """Whoever waits may send an order from its callback."""
        self.master.when(lambda record: bool(record.connections)).addCallback(
            lambda record: self.master.send(record.name, "config", {})
        )
        peer = self.login()
        self.assertEqual([m["type"] for m in peer.got], ["auth_result", "config"])


class StopTests(Scene):
    """The end of it."""

    def test_stop(self) -> None:
        """Stopping cuts sessions and hung requests, cancels waiters, and leaves no timer."""
        peer = self.running()
        self.master.script(HangPush())
        hung = self.start("/api/remote/speed", {})
        waiter = self.master.when(lambda record: False)
        self.master.stop()
        self.failed(hung)
        self.failureResultOf(waiter, CancelledError)
        self.assertIsNotNone(peer.ended)
        self.network.advance(31)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class ConnectionTests(Scene):
    """Which connections are there."""

    def test_known(self) -> None:
        """A connection is known from its start to its end, through the upgrade."""
        peer = self.running()
        self.assertEqual(len(self.master._panel.transports), 1)
        reply = self.push("heartbeat", BODY_BEAT)
        self.assertEqual((reply.status, len(self.master._panel.transports)), (200, 1))
        peer.sendClose()
        self.network.flush()
        self.assertEqual(self.master._panel.transports, [])


class PortTests(TestCase):
    """The same over a real port, with Autobahn's client and treq."""

    @inlineCallbacks
    def setUp(self) -> Any:
        """Listen on a free port."""
        self.pool = HTTPConnectionPool(reactor, persistent=False)
        self.http = treq.client.HTTPClient(Agent(reactor, pool=self.pool))
        self.master = StandInMaster(reactor, {NAME: TOKEN}, web=Agent(reactor, pool=self.pool))
        endpoint = TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
        port = yield endpoint.listen(self.master.site)
        self.addCleanup(port.stopListening)
        self.addCleanup(self.master.stop)
        self.port = port.getHost().port

    def dial(self) -> Deferred[Any]:
        """Open a WebSocket; fires once the socket is connected."""
        factory = WebSocketClientFactory(
            f"ws://127.0.0.1:{self.port}/api/remote/ws", useragent=UA, reactor=reactor
        )
        factory.protocol = Peer
        factory.noisy = False
        factory.setProtocolOptions(closeHandshakeTimeout=CLOSE_TIMEOUT)
        return TCP4ClientEndpoint(reactor, "127.0.0.1", self.port).connect(factory)

    def push(self, name: str, body: Any) -> Deferred[Any]:
        """Push over HTTP."""
        url = f"http://127.0.0.1:{self.port}/api/remote/{name}"
        return self.http.post(url, headers=HEADERS, data=json.dumps(body).encode(), timeout=10)

    @inlineCallbacks
    def test_conversation(self) -> Any:
        """Auth, heartbeat and traffic over a socket, an order back, and a clean end."""
        peer = yield self.dial()
        yield peer.is_open
        peer.tell("auth", {"token": TOKEN})
        record = yield self.master.until(lambda record: bool(record.connections))
        (served,) = self.master._panel.transports
        self.assertTrue(served.getTcpNoDelay())
        peer.tell("heartbeat", BEAT)
        yield self.master.until(lambda record: record.heartbeat is not None)
        peer.tell("traffic", stats(5))
        yield self.master.until(lambda record: bool(record.traffic.totals))
        heard: Deferred[Any] = Deferred()
        peer.heard = heard
        probe = self.master.probe_domains(NAME, ["a.example"])
        order = (yield heard)["payload"]
        result = {"request_id": order["request_id"], "success": True, "results": []}
        peer.tell("domain_latency_result", result)
        self.assertEqual((yield probe), result)
        peer.sendClose(1000)
        yield peer.is_closed
        yield self.master.until(closed)
        self.assertEqual(record.connections[0].closed, "by the agent (1000)")
        self.assertEqual(self.master.violations, [])

    @inlineCallbacks
    def test_tls(self) -> Any:
        """The upgrade works under TLS too, where a client that offers HTTP/2 gets HTTP/1.1."""
        authority = trustme.CA()
        pair = authority.issue_cert("localhost")
        chain, key = Path(self.mktemp()), Path(self.mktemp())
        chain.write_bytes(b"".join(pem.bytes() for pem in pair.cert_chain_pems))
        key.write_bytes(pair.private_key_pem.bytes())
        tls = load_tls(str(chain), str(key))
        endpoint = SSL4ServerEndpoint(reactor, 0, tls, interface="127.0.0.1")
        port = yield endpoint.listen(self.master.site)
        self.addCleanup(port.stopListening)
        trust = Certificate.loadPEM(authority.cert_pem.bytes())
        options = optionsForClientTLS(
            "localhost", trustRoot=trust, acceptableProtocols=[b"h2", b"http/1.1"]
        )
        plain = TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port)
        factory = WebSocketClientFactory(
            "wss://localhost/api/remote/ws", useragent=UA, reactor=reactor
        )
        factory.protocol = Peer
        factory.setProtocolOptions(closeHandshakeTimeout=CLOSE_TIMEOUT)
        peer = yield wrapClientTLS(options, plain).connect(factory)
        yield peer.is_open
        self.assertEqual(peer.transport.negotiatedProtocol, b"http/1.1")
        peer.tell("auth", {"token": TOKEN})
        yield self.master.until(lambda record: bool(record.connections))
        peer.sendClose(1000)
        yield peer.is_closed
        yield self.master.until(closed)
        self.master.stop()

    @inlineCallbacks
    def test_pushes(self) -> Any:
        """The pushes answer over a port as in memory."""
        beat = yield self.push("heartbeat", BODY_BEAT)
        self.assertEqual(beat.code, 200)
        yield treq.content(beat)
        traffic = yield self.push("traffic", stats(5))
        answer = yield treq.json_content(traffic)
        self.assertEqual(answer["message"], "Traffic data received")
        self.assertEqual(self.master.agent(NAME).ip_address, "127.0.0.1")
        self.assertEqual(self.master.violations, [])

    @inlineCallbacks
    def test_cut(self) -> Any:
        """A scripted drop arrives as an end with no close frame, after the auth_result."""
        self.master.script(DropSession(messages=0))
        peer = yield self.dial()
        yield peer.is_open
        peer.tell("auth", {"token": TOKEN})
        yield peer.is_closed
        self.assertEqual([m["type"] for m in peer.got], ["auth_result"])
        self.assertFalse(peer.wasClean)

    @inlineCallbacks
    def test_refused(self) -> Any:
        """A refused upgrade arrives as a failed handshake."""
        self.master.script(RefuseUpgrade(403))
        peer = yield self.dial()
        yield peer.is_closed
        self.assertIn("403", peer.wasNotCleanReason)
        self.assertFalse(peer.opened)

    @inlineCallbacks
    def test_half_open(self) -> Any:
        """A half-open session and a silent upgrade both end with the master's stop."""
        peer = yield self.dial()
        yield peer.is_open
        peer.tell("auth", {"token": TOKEN})
        yield self.master.until(lambda record: bool(record.connections))
        self.master.stop_reading(NAME)
        self.master.script(SilentUpgrade())
        silent = yield self.dial()
        yield self.master.until(
            lambda record: bool(record.events) and record.events[-1].detail == "silent-upgrade"
        )
        self.master.stop()
        yield peer.is_closed
        yield silent.is_closed
