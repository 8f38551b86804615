"""Orders of the master: mmwagent.testing.orders, over a network in memory."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone

from twisted.internet.defer import TimeoutError

from mmwagent.testing.faults import SilentAuth
from mmwagent.testing.orders import NotConnected, nanoseconds
from mmwagent.testing.panel import UnknownAgent
from tests.testing.scene import HEADERS, NAME, TOKEN, Scene

SPEED = {"upload_speed": 1, "download_speed": 2}


class SendTests(Scene):
    """Sending."""

    def test_send(self) -> None:
        """A message goes out as it is, by name or token, and is in the record's events."""
        peer = self.running()
        self.master.send(NAME, "config", {"a": 1})
        self.master.send(TOKEN, "novelty", {})
        self.master.say(NAME, '{"type": "odd", "extra": []}')
        self.network.flush()
        self.assertEqual(
            peer.got,
            [
                {"type": "config", "payload": {"a": 1}},
                {"type": "novelty", "payload": {}},
                {"type": "odd", "extra": []},
            ],
        )
        orders = [event.detail for event in self.record.events if event.what == "order"]
        self.assertEqual(orders, ["config", "novelty"])

    def test_nobody(self) -> None:
        """An agent that is not connected, or not known, gets no message."""
        self.assertRaises(NotConnected, self.master.send, NAME, "config", {})
        self.assertRaises(UnknownAgent, self.master.send, "who", "config", {})
        self.dial()
        self.assertRaises(NotConnected, self.master.send, NAME, "config", {})

    def test_deploy(self) -> None:
        """A deployment has the six fields."""
        peer = self.running()
        fields = {"cert_pem": "C", "key_pem": "K", "cert_path": "/c", "key_path": "/k"}
        self.master.deploy_certificate(NAME, "a.example", **fields)
        self.network.flush()
        payload = {"domain": "a.example", "reload": "both", **fields}
        self.assertEqual(peer.got, [{"type": "cert_deploy", "payload": payload}])


class RotationTests(Scene):
    """A new token."""

    def test_rotation(self) -> None:
        """The agent is told, its session goes on, the old token is dead, the new one works."""
        peer = self.running()
        self.master.rotate_token(NAME, "new-token")
        self.tell(peer, "speed", SPEED)
        self.assertEqual(peer.got[0]["type"], "token_update")
        self.assertEqual(peer.got[0]["payload"]["server_token"], "new-token")
        self.assertEqual(len(self.record.of("speed")), 1)
        self.assertTrue(self.master.connected(NAME))
        self.assertEqual(self.record.old_tokens, [TOKEN])
        self.assertEqual(self.push("speed", SPEED).status, 401)
        headers = {**HEADERS, "X-Remote-Token": "new-token"}
        self.assertEqual(self.push("speed", SPEED, headers=headers).status, 200)
        self.assertIs(self.master.agent(TOKEN), self.record)

    def test_second_connection_after_rotation(self) -> None:
        """The session is found by the new token: a second one replaces it."""
        peer = self.running()
        self.master.rotate_token(NAME, "new-token")
        self.login("new-token")
        self.assertEqual(peer.ended, (False, 1006))
        self.assertEqual(self.rules, ["two-sockets"])

    def test_not_connected(self) -> None:
        """An agent that is not connected is locked out with its old token."""
        token = self.master.rotate_token(NAME)
        self.assertRegex(token, r"^[0-9a-f-]{36}$")
        self.assertIs(self.login().got[0]["payload"]["success"], False)
        self.assertIs(self.login(token).got[0]["payload"]["success"], True)

    def test_token_in_use(self) -> None:
        """A token of another agent is refused and nothing changes."""
        self.master.add_server("other", "other-token")
        self.assertRaises(ValueError, self.master.rotate_token, NAME, "other-token")
        self.assertEqual(self.record.token, TOKEN)

    def test_expiry(self) -> None:
        """expires_at has nine digits and the master's zone, a week from now."""
        self.master.orders._zone = timezone(timedelta(hours=8))
        peer = self.running()
        self.master.rotate_token(NAME)
        self.network.flush()
        expires_at = peer.got[0]["payload"]["expires_at"]
        self.assertEqual(expires_at, "2026-05-08T20:00:00.000000789+08:00")
        self.assertEqual(self.record.expires_at, datetime(2026, 5, 8, 12, tzinfo=UTC))

    def test_utc(self) -> None:
        """In UTC the zone is a Z."""
        moment = datetime(2026, 5, 8, 12, microsecond=5, tzinfo=UTC)
        self.assertEqual(nanoseconds(moment), "2026-05-08T12:00:00.000005789Z")

    def test_faults_follow(self) -> None:
        """Faults scripted for the agent follow its token."""
        self.master.script(SilentAuth(), NAME)
        token = self.master.rotate_token(NAME)
        self.assertEqual(self.login(token).got, [])


class QuestionTests(Scene):
    """Orders that are answered."""

    def test_probe(self) -> None:
        """A probe's Deferred fires with the result of the same request_id."""
        peer = self.running()
        answer = self.master.probe_domains(NAME, ["a.example"], 200)
        self.network.flush()
        order = peer.got[0]["payload"]
        self.assertEqual((order["domains"], order["timeout_ms"]), (["a.example"], 200))
        self.assertTrue(re.fullmatch(r"\d+-\d+", order["request_id"]))
        result = {"request_id": "another", "success": True, "results": []}
        self.tell(peer, "domain_latency_result", result)
        self.assertNoResult(answer)
        result = {**result, "request_id": order["request_id"]}
        self.tell(peer, "domain_latency_result", {**result, "results": 5})
        self.assertNoResult(answer)
        self.tell(peer, "domain_latency_result", result)
        self.assertEqual(self.successful(answer), result)

    def test_probe_in_vain(self) -> None:
        """The master waits timeout_ms and five seconds, no longer."""
        self.running()
        answer = self.master.probe_domains(NAME, ["a.example"], 200)
        self.network.advance(5.1, step=0.1)
        self.assertNoResult(answer)
        self.network.advance(0.2)
        self.failed(answer, TimeoutError)

    def test_two_probes(self) -> None:
        """Two probes at once each get their own result."""
        peer = self.running()
        first = self.master.probe_domains(NAME, ["a.example"])
        second = self.master.probe_domains(NAME, ["b.example"])
        self.network.flush()
        ids = [message["payload"]["request_id"] for message in peer.got]
        for one in reversed(ids):
            payload = {"request_id": one, "success": True, "results": []}
            self.tell(peer, "domain_latency_result", payload)
        self.assertEqual(self.successful(first)["request_id"], ids[0])
        self.assertEqual(self.successful(second)["request_id"], ids[1])

    def test_probe_of_nobody(self) -> None:
        """A probe of an agent that is not connected fails at once and leaves nothing behind."""
        self.assertRaises(NotConnected, self.master.probe_domains, NAME, ["a.example"])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_certificate(self) -> None:
        """A certificate's Deferred fires with the cert_update of the same cert_id."""
        peer = self.running()
        answer = self.master.request_certificate(
            NAME, "*.a.example", cert_id=7, challenge_mode="dns", dns_provider="cloudflare"
        )
        self.network.flush()
        self.assertEqual(
            peer.got[0],
            {
                "type": "cert_request",
                "payload": {
                    "cert_id": 7,
                    "domain": "*.a.example",
                    "email": "admin@example.com",
                    "provider": "letsencrypt",
                    "challenge_mode": "dns",
                    "dns_provider": "cloudflare",
                },
            },
        )
        update = {"domain": "*.a.example", "success": False, "error": "no"}
        self.tell(peer, "cert_update", {**update, "cert_id": 6})
        self.assertNoResult(answer)
        self.tell(peer, "cert_update", {**update, "cert_id": 7})
        self.assertEqual(self.successful(answer)["error"], "no")
