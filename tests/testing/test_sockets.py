"""The WebSocket door: mmwagent.testing.sockets and session, over a network in memory."""

from __future__ import annotations

import json
import struct
from typing import Any

from mmwagent.testing.faults import (
    DelayAnswers,
    DelayAuth,
    DropSession,
    RefuseAuth,
    RefuseUpgrade,
    SilentAuth,
    SilentUpgrade,
    StopReading,
)
from tests.testing.scene import BEAT, BOOT, NAME, TOKEN, Peer, Scene, stats

OK = {"type": "auth_result", "payload": {"success": True, "message": "Authenticated"}}
SPEED = {"upload_speed": 1, "download_speed": 2}
UPGRADE = {
    "User-Agent": "miaomiaowux/0.1",
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


def refusal(message: str) -> dict[str, Any]:
    """An auth_result that says no."""
    return {"type": "auth_result", "payload": {"success": False, "message": message}}


class UpgradeTests(Scene):
    """Who gets a WebSocket."""

    def test_upgrade(self) -> None:
        """The right User-Agent is all it takes, whatever the Origin; no compression."""
        peer = self.dial(Origin="https://elsewhere.example")
        self.assertTrue(peer.opened)
        self.assertEqual(peer.websocket_extensions_in_use, [])
        self.assertEqual(self.master.strangers.handshakes, [0.0])

    def test_user_agent(self) -> None:
        """Another User-Agent, or another case, gets 403 as text."""
        for agent in ("miaomiaowux/0.2", "MiaoMiaoWuX/0.1", ""):
            headers = {**UPGRADE, "User-Agent": agent}
            reply = self.ask("/api/remote/ws", method="GET", headers=headers)
            self.assertEqual((reply.status, reply.body), (403, b"Forbidden\n"))
        self.assertEqual(self.rules, ["user-agent"] * 3)
        self.assertEqual(self.master.strangers.handshakes, [])

    def test_version(self) -> None:
        """Only version 13 is spoken."""
        for headers in ({**UPGRADE, "Sec-WebSocket-Version": "8"}, {"User-Agent": UPGRADE_UA}):
            reply = self.ask("/api/remote/ws", method="GET", headers=headers)
            self.assertEqual(reply.status, 400)

    def test_method(self) -> None:
        """Only GET upgrades."""
        reply = self.ask("/api/remote/ws", method="POST", headers=UPGRADE)
        self.assertEqual(reply.status, 405)

    def test_fault_status(self) -> None:
        """An upgrade can be scripted to be answered with a status, Retry-After and all."""
        self.master.script(RefuseUpgrade(429, retry_after=60), times=1)
        reply = self.ask("/api/remote/ws", method="GET", headers=UPGRADE)
        self.assertEqual(reply.status, 429)
        self.assertEqual(reply.headers.getRawHeaders("Retry-After"), ["60"])
        self.assertTrue(self.dial().opened)

    def test_fault_redirect(self) -> None:
        """An upgrade can be scripted to be redirected."""
        self.master.script(RefuseUpgrade(302, location="http://b.example/"))
        reply = self.ask("/api/remote/ws", method="GET", headers=UPGRADE)
        self.assertEqual(reply.status, 302)
        self.assertEqual(reply.headers.getRawHeaders("Location"), ["http://b.example/"])

    def test_fault_silence(self) -> None:
        """An upgrade can be scripted to be taken and never answered."""
        self.master.script(SilentUpgrade(), times=1)
        silent = self.start("/api/remote/ws", method="GET", headers=UPGRADE)
        self.network.advance(600, step=60)
        self.assertNoResult(silent)
        self.assertTrue(self.dial().opened)
        self.master.stop()
        self.failed(silent)

    def test_fault_for_a_token(self) -> None:
        """Scripted for one agent it needs that agent's token in a header of the upgrade."""
        self.master.script(RefuseUpgrade(500), NAME)
        self.assertTrue(self.dial().opened)
        self.assertFalse(self.dial(X_Remote_Token=TOKEN).opened)
        self.assertEqual(self.master.strangers.events[-1].detail, "refuse-upgrade")


UPGRADE_UA = UPGRADE["User-Agent"]


class AuthTests(Scene):
    """Authentication."""

    def test_accepted(self) -> None:
        """A known token is answered with success, in a text frame, and recorded."""
        peer = self.login(ip="198.51.100.7")
        self.assertEqual(peer.got, [OK])
        self.assertEqual(peer.binary, [False])
        self.assertEqual(self.record.ip_address, "198.51.100.7")
        self.assertEqual(self.master.status(NAME), "connected")
        self.assertTrue(self.master.connected(NAME))
        self.assertEqual(self.record.auth_attempts, [0.0])
        self.assertEqual(self.record.handshakes, [0.0])
        self.assertEqual(self.rules, [])

    def test_spaces(self) -> None:
        """Spaces around a token do not matter."""
        self.assertEqual(self.login(f" {TOKEN} ").got, [OK])

    def test_refused_stays_open(self) -> None:
        """A refused auth says why, leaves the connection open, and may be tried again."""
        peer = self.login("nobody's")
        self.tell(peer, "auth", {"token": ""})
        self.tell(peer, "auth", {})
        self.tell(peer, "auth", {"token": 5})
        self.tell(peer, "auth", "x")
        self.tell(peer, "auth", {"token": TOKEN})
        words = ["Invalid token", *["Token required"] * 2, *["Invalid auth payload"] * 2]
        self.assertEqual(peer.got, [*map(refusal, words), OK])
        self.assertIsNone(peer.ended)
        self.assertEqual(len(self.master.strangers.of("auth", accepted=False)), 5)

    def test_needed(self) -> None:
        """Every message that needs authentication says so before it; unknown ones say nothing."""
        peer = self.dial()
        types = (
            "traffic",
            "speed",
            "heartbeat",
            "cert_update",
            "scan_result",
            "domain_latency_result",
        )
        for type in types:
            self.tell(peer, type, {})
        self.tell(peer, "whatever", {})
        self.assertEqual(peer.got, [refusal("Authentication required")] * len(types))
        self.assertEqual(self.rules, ["before-auth"] * len(types) + ["unknown-type"])

    def test_again(self) -> None:
        """Auth on an authenticated connection closes that very connection."""
        peer = self.login()
        self.tell(peer, "auth", {"token": TOKEN})
        self.assertEqual(peer.ended, (False, 1006))
        self.assertFalse(self.master.connected(NAME))
        self.assertEqual(self.rules, ["re-auth"])

    def test_second_connection(self) -> None:
        """A second connection with the token closes the first, with no close frame."""
        first, second = self.login(), self.login()
        self.network.flush()
        self.assertEqual(first.ended, (False, 1006))
        self.assertIsNone(second.ended)
        self.assertTrue(self.master.connected(NAME))
        self.assertEqual(self.rules, ["two-sockets"])
        self.assertEqual(len(self.record.connections), 2)
        self.assertIn("replaced", str(self.record.connections[0].closed))

    def test_reconnect_after_close(self) -> None:
        """One after the other is no breach, and each is in the record with its times."""
        first = self.login()
        self.clock.advance(5)
        first.sendClose(1000)
        self.network.flush()
        self.login()
        self.assertEqual(self.rules, [])
        times = [(c.handshake_at, c.closed_at) for c in self.record.connections]
        self.assertEqual(times, [(0.0, 5.0), (5.0, None)])
        self.assertEqual(self.record.connections[0].closed, "by the agent (1000)")

    def test_fault_refused(self) -> None:
        """A right token can be scripted to be refused with any text."""
        self.master.script(RefuseAuth("Token expired"), NAME, times=1)
        peer = self.login()
        self.tell(peer, "auth", {"token": TOKEN})
        self.assertEqual(peer.got, [refusal("Token expired"), OK])
        self.assertEqual([r.accepted for r in self.record.of("auth")], [False, True])

    def test_fault_silent(self) -> None:
        """Auth can be scripted never to be answered; the attempt is recorded."""
        self.master.script(SilentAuth())
        peer = self.login()
        self.network.advance(59)
        self.assertEqual(peer.got, [])
        self.assertEqual(self.record.auth_attempts, [0.0])
        self.assertFalse(self.master.connected(NAME))

    def test_fault_delayed(self) -> None:
        """Auth can be scripted to be looked at late."""
        self.master.script(DelayAuth(7))
        peer = self.login()
        self.network.advance(6)
        self.assertEqual(peer.got, [])
        self.network.advance(1)
        self.assertEqual(peer.got, [OK])
        self.assertEqual(self.record.connections[0].authenticated_at, 7.0)

    def test_fault_delayed_and_gone(self) -> None:
        """An agent that leaves while its auth is delayed is not authenticated."""
        self.master.script(DelayAuth(7))
        peer = self.login()
        peer.sendClose()
        self.network.advance(10)
        self.assertEqual(self.record.connections, [])


class MessageTests(Scene):
    """What the master does with messages."""

    def test_heartbeat(self) -> None:
        """A heartbeat is stored and acknowledged with the master's time."""
        peer = self.login()
        self.clock.advance(3)
        self.tell(peer, "heartbeat", BEAT)
        self.assertEqual(
            peer.got[1:], [{"type": "heartbeat_ack", "payload": {"server_time": 1777636803}}]
        )
        self.assertEqual((self.record.listen_port, self.record.boot_count), (23889, 1))
        report = self.record.of("heartbeat")[0]
        self.assertEqual((report.door, report.payload, report.at), ("websocket", BEAT, 3.0))

    def test_bad_heartbeat(self) -> None:
        """A bad heartbeat is acknowledged too, and wipes what was stored."""
        peer = self.running()
        for payload in ({}, {"boot_time": "now", "listen_port": 1}, 5):
            self.tell(peer, "heartbeat", payload)
            self.assertEqual((self.record.listen_port, self.record.boot_time), (0, None))
        self.assertEqual([m["type"] for m in peer.got], ["heartbeat_ack"] * 3)

    def test_missing_port(self) -> None:
        """A heartbeat without listen_port is a breach."""
        self.tell(self.login(), "heartbeat", {"boot_time": BOOT})
        self.assertEqual(self.rules, ["listen-port"])

    def test_boot_count(self) -> None:
        """A different boot time is another boot; the same is not."""
        peer = self.running()
        self.tell(peer, "heartbeat", BEAT)
        self.assertEqual(self.record.boot_count, 1)
        self.tell(peer, "heartbeat", {**BEAT, "boot_time": "2026-05-01T11:00:01Z"})
        self.assertEqual(self.record.boot_count, 2)

    def test_traffic_and_speed(self) -> None:
        """Traffic is summed and speed kept, both without an answer."""
        peer = self.running()
        self.tell(peer, "traffic", stats(100, 50))
        self.tell(peer, "traffic", stats(130, 50))
        self.tell(peer, "speed", SPEED)
        self.assertEqual(peer.got, [])
        self.assertEqual(self.record.traffic.total("user", "uplink"), 130)
        self.assertEqual(self.record.speed and self.record.speed.upload, 1)
        self.assertEqual(self.rules, [])

    def test_dropped_for_its_payload(self) -> None:
        """A payload of wrong types, or none, drops the message and changes nothing."""
        peer = self.running()
        self.tell(peer, "traffic", {"stats": {"user": {"a@b": {"uplink": 5.0}}}})
        self.tell(peer, "speed", {"upload_speed": "1", "download_speed": 2})
        self.tell(peer, "scan_result")
        self.assertEqual(self.rules, ["integer", "integer", "shape"])
        self.assertEqual(self.record.traffic.totals, {})
        self.assertIsNone(self.record.speed)
        self.assertEqual([r.accepted for r in self.record.reports[-3:]], [False, False, False])
        self.assertEqual(self.record.reports[-2].payload["upload_speed"], "1")
        self.assertEqual(peer.got, [])
        self.assertIsNone(peer.ended)

    def test_order(self) -> None:
        """Traffic or a scan before the first heartbeat of a session is a breach each time."""
        self.tell(self.running(), "traffic", stats(1))
        self.assertEqual(self.rules, [])
        self.network.cut()
        peer = self.login()
        self.tell(peer, "traffic", stats(1))
        self.tell(peer, "scan_result", {"xray_running": True})
        self.tell(peer, "speed", SPEED)
        self.assertEqual(self.rules, ["order", "order"])

    def test_old_snapshot(self) -> None:
        """A counter that falls while Xray's boot time stays is an old snapshot."""
        beat = {**BEAT, "xray_boot_time": BOOT}
        peer = self.login()
        self.tell(peer, "heartbeat", beat)
        self.tell(peer, "traffic", stats(100))
        self.tell(peer, "traffic", stats(40))
        self.assertEqual(self.rules, ["old-snapshot"])
        self.assertEqual(self.record.traffic.total("user", "uplink"), 140)

    def test_late_user(self) -> None:
        """A user who first appears some reports after a restart, below before, is no breach."""
        peer = self.login()
        self.tell(peer, "heartbeat", {**BEAT, "xray_boot_time": BOOT})
        self.tell(peer, "traffic", stats(100))
        self.tell(peer, "heartbeat", {**BEAT, "xray_boot_time": "2026-05-01T12:00:00Z"})
        self.tell(peer, "traffic", {"stats": {"user": {}}})
        self.tell(peer, "traffic", stats(40))
        self.assertEqual(self.rules, [])
        self.assertEqual(self.record.traffic.total("user", "uplink"), 140)
        self.tell(peer, "traffic", stats(30))
        self.assertEqual(self.rules, ["old-snapshot"])

    def test_xray_restart(self) -> None:
        """A fall after a new xray_boot_time, or without any, is a restart and no breach."""
        peer = self.running()
        self.tell(peer, "traffic", stats(100))
        self.tell(peer, "traffic", stats(40))
        for xray_boot in (BOOT, "2026-05-01T12:00:00Z"):
            self.tell(peer, "heartbeat", {**BEAT, "xray_boot_time": xray_boot})
            self.tell(peer, "traffic", stats(100))
            self.tell(peer, "traffic", stats(200))
            self.tell(peer, "heartbeat", BEAT)
        self.assertEqual(self.rules, [])
        self.assertEqual(self.record.traffic.total("user", "uplink"), 100 + 40 + 160 + 200)
        self.assertEqual(self.record.xray_boot_count, 2)

    def test_naive_boot_time(self) -> None:
        """A boot time without a zone, or away from UTC, is a breach."""
        peer = self.login()
        self.tell(peer, "heartbeat", {"listen_port": 1, "boot_time": "2026-05-01T11:00:00"})
        self.tell(peer, "heartbeat", {**BEAT, "boot_time": "2026-05-01T11:00:00+08:00"})
        self.assertEqual(self.rules, ["time", "boot-time", "utc", "boot-time"])

    def test_certificate_dates(self) -> None:
        """A certificate's date with an offset is taken and a breach; "" is dropped."""
        peer = self.running()
        good = {"cert_id": 1, "domain": "a.example", "success": True}
        self.tell(peer, "cert_update", {**good, "issue_date": "2026-05-01T11:00:00+08:00"})
        self.tell(peer, "cert_update", {**good, "issue_date": ""})
        self.assertEqual(self.rules, ["certificate-date"] * 2)
        self.assertEqual([r.accepted for r in self.record.of("cert_update")], [True, False])

    def test_json_ping(self) -> None:
        """A JSON ping is answered with a pong that has no payload, even before auth."""
        peer = self.dial()
        self.tell(peer, "ping")
        self.assertEqual(peer.got, [{"type": "pong"}])

    def test_ignored(self) -> None:
        """What is no JSON, no object, or of an unknown type is ignored, and a breach."""
        peer = self.running()
        for text in (b"{", b"[]", b'{"type": 5}', b"NaN"):
            peer.sendMessage(text)
        self.tell(peer, "novelty", {})
        self.assertEqual(self.rules, ["json", "shape", "shape", "json", "unknown-type"])
        self.assertEqual((peer.got, peer.ended), ([], None))

    def test_binary_and_fragments(self) -> None:
        """Binary frames and fragments are taken like text in one piece."""
        peer = self.running()
        message = json.dumps({"type": "speed", "payload": SPEED}).encode()
        peer.sendMessage(message, isBinary=True)
        peer.sendMessage(message, fragmentSize=7)
        self.network.flush()
        self.assertEqual(len(self.record.of("speed", accepted=True)), 2)

    def test_large(self) -> None:
        """There is no limit of size."""
        peer = self.running()
        users = {f"user-{n}@example.com": {"uplink": n, "downlink": n} for n in range(20_000)}
        self.tell(peer, "traffic", {"stats": {"user": users}})
        self.assertEqual(len(self.record.traffic.totals), 40_000)

    def test_unmasked(self) -> None:
        """An unmasked frame of the agent closes the connection with code 1002."""
        peer = self.running()
        raw: list[bytes] = []
        peer.dataReceived = raw.append
        peer.transport.write(b"\x81\x02{}")
        self.network.flush()
        data = b"".join(raw)
        self.assertEqual((data[0], struct.unpack("!H", data[2:4])[0]), (0x88, 1002))
        self.assertFalse(self.master.connected(NAME))

    def test_protocol_ping(self) -> None:
        """A protocol ping is answered."""
        peer = self.running()
        peer.sendPing(b"hello")
        self.network.flush()
        self.assertEqual(peer.pongs, [b"hello"])

    def test_statuses(self) -> None:
        """Pending before the first word, offline one to two minutes after the last."""
        self.assertEqual(self.master.status(NAME), "pending")
        peer = self.running()
        self.network.advance(119)
        self.assertEqual(self.master.status(NAME), "connected")
        self.network.advance(1)
        self.assertEqual(self.master.status(NAME), "offline")
        self.tell(peer, "speed", SPEED)
        self.assertEqual(self.master.status(NAME), "connected")


class DeadlineTests(Scene):
    """When the master closes a connection by itself: abruptly, on the master's clock."""

    def ended_at(self, peer: Peer, limit: float = 1000) -> float | None:
        """Let time pass, and return when the connection ended."""
        while peer.ended is None and self.clock.seconds() < limit:
            self.network.advance(1)
        if peer.ended is not None:
            self.assertEqual(peer.ended, (False, 1006))
        return self.clock.seconds() if peer.ended else None

    def test_unauthenticated(self) -> None:
        """Without auth it ends after 60 s."""
        self.assertEqual(self.ended_at(self.dial()), 60)

    def test_unauthenticated_noise(self) -> None:
        """Protocol pings, refused messages and failed auths do not extend the 60 s."""
        peer = self.dial()
        self.network.advance(30)
        peer.sendPing(b"x")
        self.tell(peer, "speed", SPEED)
        self.tell(peer, "auth", {"token": "wrong"})
        self.assertEqual(self.ended_at(peer), 60)

    def test_unauthenticated_json_ping(self) -> None:
        """A JSON ping gives five minutes, even without auth."""
        peer = self.dial()
        self.network.advance(30)
        self.tell(peer, "ping")
        self.assertEqual(self.ended_at(peer), 330)

    def test_authenticated(self) -> None:
        """Silent after auth it ends after 300 s."""
        self.assertEqual(self.ended_at(self.login()), 300)

    def test_extended_by_messages(self) -> None:
        """Any accepted message gives five minutes more; protocol pings do not."""
        peer = self.login()
        self.network.advance(100)
        self.tell(peer, "speed", SPEED)
        self.network.advance(100)
        peer.sendPing(b"x")
        self.tell(peer, "speed", {"upload_speed": "no"})
        self.assertEqual(self.ended_at(peer), 360, "the sweep comes before the deadline")
        self.assertIn("stale", str(self.record.connections[0].closed))

    def test_extended_by_heartbeats(self) -> None:
        """With a heartbeat each 30 s a connection stays."""
        peer = self.running()
        for _ in range(40):
            self.network.advance(30)
            self.tell(peer, "heartbeat", BEAT)
        self.assertIsNone(peer.ended)
        self.assertEqual(self.rules, [])

    def test_stale(self) -> None:
        """Speed alone keeps the deadline away, but not the sweep for stale heartbeats."""
        self.network.advance(33)
        peer = self.login()
        while peer.ended is None:
            self.network.advance(3)
            if peer.ended is None:
                self.tell(peer, "speed", SPEED)
        self.assertEqual(self.clock.seconds(), 360)
        self.assertEqual(peer.ended, (False, 1006))

    def test_pong_shortens(self) -> None:
        """A pong nobody asked for sets the deadline to 60 s, and is a breach."""
        peer = self.running()
        peer.sendPong(b"keepalive")
        self.network.flush()
        self.assertEqual(self.rules, ["pong"])
        self.assertEqual(self.ended_at(peer), 60)

    def test_answered_ping(self) -> None:
        """The pong to a ping of the master is no breach, but sets the deadline all the same."""
        peer = self.running()
        self.master.ping(NAME)
        self.network.flush()
        self.assertEqual(self.rules, [])
        self.assertEqual(self.ended_at(peer), 60)

    def test_no_timer_left(self) -> None:
        """When the last connection is gone the master's clock has nothing to do."""
        peer = self.running()
        peer.sendClose()
        self.network.advance(61)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class SessionFaultTests(Scene):
    """What can go wrong with a session."""

    def test_drop_after_messages(self) -> None:
        """A session can be cut after so many messages since auth, once."""
        self.master.script(DropSession(messages=2), NAME, times=1)
        peer = self.login()
        self.tell(peer, "heartbeat", BEAT)
        self.assertIsNone(peer.ended)
        self.tell(peer, "speed", SPEED)
        self.assertEqual(peer.ended, (False, 1006))
        self.assertEqual(self.record.connections[0].closed, "scripted: dropped")
        again = self.running()
        for _ in range(5):
            self.tell(again, "speed", SPEED)
        self.assertIsNone(again.ended)

    def test_drop_at_once(self) -> None:
        """With 0 messages it is cut right after the auth_result, which still arrives."""
        self.master.script(DropSession(messages=0))
        peer = self.login()
        self.assertEqual((peer.got, peer.ended), ([OK], (False, 1006)))

    def test_drop_after_delayed_auth(self) -> None:
        """The count starts at auth, also when that was delayed."""
        self.master.script(DelayAuth(5))
        self.master.script(DropSession(messages=1))
        peer = self.login()
        self.network.advance(5)
        self.assertIsNone(peer.ended)
        self.tell(peer, "heartbeat", BEAT)
        self.assertEqual(peer.ended, (False, 1006))

    def test_drop_after_seconds(self) -> None:
        """A session can be cut after so many seconds, however busy."""
        self.master.script(DropSession(seconds=10))
        peer = self.running()
        self.network.advance(9)
        self.assertIsNone(peer.ended)
        self.network.advance(1)
        self.assertEqual(peer.ended, (False, 1006))

    def test_drop_now(self) -> None:
        """A test can cut a session at any moment."""
        peer = self.running()
        self.master.drop(NAME)
        self.network.flush()
        self.assertEqual(peer.ended, (False, 1006))

    def test_half_open(self) -> None:
        """A half-open session takes nothing, answers nothing, and stays open."""
        self.master.script(StopReading(messages=1), times=1)
        peer = self.login()
        self.tell(peer, "heartbeat", BEAT)
        peer.got.clear()
        self.tell(peer, "heartbeat", BEAT)
        peer.sendPing(b"there?")
        self.network.flush()
        self.assertEqual((peer.got, peer.pongs, peer.ended), ([], [], None))
        self.assertEqual(len(self.record.of("heartbeat")), 1)

    def test_half_open_from_auth(self) -> None:
        """By default a session is half open right after its auth_result."""
        self.master.script(StopReading())
        peer = self.login()
        self.tell(peer, "heartbeat", BEAT)
        self.assertEqual((peer.got, self.record.heartbeat), ([OK], None))

    def test_half_open_replaced(self) -> None:
        """Connecting again while the master did not notice is no breach."""
        self.running()
        self.master.stop_reading(NAME)
        self.network.connections[0][0].abortConnection()
        self.network.flush()
        self.login()
        self.assertEqual(self.rules, [])
        self.assertTrue(self.master.connected(NAME))

    def test_delayed_answers(self) -> None:
        """Answers can come late; each by the same time, in order."""
        self.master.script(DelayAnswers(4))
        peer = self.login()
        self.network.advance(1)
        self.tell(peer, "heartbeat", BEAT)
        self.network.advance(2)
        self.assertEqual(peer.got, [])
        self.network.advance(1)
        self.assertEqual([m["type"] for m in peer.got], ["auth_result"])
        self.network.advance(1)
        self.assertEqual([m["type"] for m in peer.got], ["auth_result", "heartbeat_ack"])

    def test_delayed_answers_of_one_agent(self) -> None:
        """Scripted for one agent, answers are late from its auth on, and only its own."""
        self.master.add_server("other", "token-of-other")
        self.master.script(DelayAnswers(4), NAME)
        other = self.login("token-of-other")
        peer = self.login()
        self.assertEqual((other.got, peer.got), ([OK], []))
        self.network.advance(4)
        self.assertEqual(peer.got, [OK])

    def test_half_open_pong(self) -> None:
        """A half-open session does not hear pongs either."""
        peer = self.running()
        self.master.stop_reading(NAME)
        peer.sendPong(b"x")
        self.network.flush()
        self.assertEqual(self.rules, [])

    def test_delayed_answers_and_gone(self) -> None:
        """An answer to an agent that left is not sent, and leaves no timer."""
        self.master.script(DelayAnswers(4))
        peer = self.login()
        peer.sendClose()
        self.network.advance(61)
        self.assertEqual(self.clock.getDelayedCalls(), [])
