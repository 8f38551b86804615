"""The JSON API for people: mmwagent.testing.console, over a network in memory."""

from __future__ import annotations

from typing import Any

from mmwagent.testing.faults import AnswerPush, RefuseAuth
from tests.testing.scene import BODY_BEAT, NAME, TOKEN, Reply, Scene, stats

SPEED = {"upload_speed": 1, "download_speed": 2}


SUMMARY = {
    *("name", "status", "websocket", "ip_address", "listen_port"),
    *("boot_time", "boot_count", "xray_boot_time", "xray_boot_count"),
    *("token_expires_at", "speed", "traffic", "messages", "violations"),
}
DETAILS = {"events", "connections", "handshakes", "auth_attempts", "reports", "counters"}


class ConsoleTests(Scene):
    """What people can see and do."""

    def console(self, method: str, path: str, body: Any = None, **options: Any) -> Reply:
        """Ask the console, with no header an agent has."""
        options.setdefault("headers", {})
        return self.ask(f"/standin/{path}", body, method=method, **options)

    def complaint(self, status: int, words: str, reply: Reply) -> None:
        """See that a reply is an error in the one shape."""
        self.assertEqual(reply.status, status)
        self.assertEqual(set(reply.json), {"success", "error"})
        self.assertIs(reply.json["success"], False)
        self.assertIn(words, reply.json["error"])

    def test_agents(self) -> None:
        """The list sums up every agent, and the strangers."""
        self.running()
        self.push("traffic", stats(5, 6))
        self.push("speed", SPEED)
        reply = self.console("GET", "agents")
        edge, strangers = reply.json["agents"]
        self.assertEqual(
            (edge["name"], edge["status"], edge["websocket"]), (NAME, "connected", True)
        )
        self.assertEqual(edge["traffic"]["user"], {"uplink": 5, "downlink": 6})
        self.assertEqual(edge["speed"], {"upload": 1, "download": 2})
        self.assertEqual(edge["messages"]["http traffic"], 1)
        self.assertEqual((edge["listen_port"], edge["boot_count"]), (23889, 1))
        self.assertEqual(strangers["name"], "(unknown)")
        self.assertEqual(edge["boot_time"], "2026-05-01T11:00:00+00:00")
        self.assertEqual(set(edge), SUMMARY)

    def test_agent(self) -> None:
        """One agent's record is found by name or token, with messages and counters."""
        peer = self.running()
        self.tell(peer, "traffic", stats(5, 6))
        for who in (NAME, TOKEN):
            agent = self.console("GET", f"agents/{who}").json["agent"]
            self.assertEqual(
                [r["type"] for r in agent["reports"]], ["auth", "heartbeat", "traffic"]
            )
            self.assertEqual(set(agent), SUMMARY | DETAILS)
            counter = {"kind": "user", "name": "a@b", "direction": "downlink", "bytes": 6}
            self.assertEqual(agent["counters"][0], counter)
            self.assertEqual((agent["handshakes"], agent["auth_attempts"]), ([0.0], [0.0]))
            self.assertEqual(agent["connections"][0]["closed"], None)

    def test_no_secrets(self) -> None:
        """No answer shows a token or a private key."""
        peer = self.running()
        update = {"cert_id": 1, "domain": "a.example", "success": True, "key_pem": "SECRET"}
        self.tell(peer, "cert_update", update)
        self.master.rotate_token(NAME, "SECRET-too")
        for path in ("agents", f"agents/{NAME}"):
            body = self.console("GET", path).body
            self.assertNotIn(b"SECRET", body)
            self.assertNotIn(TOKEN.encode(), body)

    def test_violations(self) -> None:
        """Breaches of the rules are shown."""
        self.push("traffic", stats(1))
        agent = self.console("GET", "agents").json["agents"][0]
        self.assertEqual([v["rule"] for v in agent["violations"]], ["order"])

    def test_order(self) -> None:
        """An order goes out over the agent's session."""
        peer = self.running()
        reply = self.console("POST", f"agents/{NAME}/orders", {"type": "x", "payload": {"a": 1}})
        sent = {"type": "x", "payload": {"a": 1}}
        self.assertEqual((reply.status, reply.json), (200, {"success": True, "sent": sent}))
        self.assertEqual(peer.got, [{"type": "x", "payload": {"a": 1}}])

    def test_order_token_update(self) -> None:
        """A token_update really rotates the token."""
        peer = self.running()
        order = {"type": "token_update", "payload": {"server_token": "new"}}
        reply = self.console("POST", f"agents/{NAME}/orders", order)
        self.assertEqual(reply.json["sent"]["payload"], {"server_token": "..."})
        self.assertEqual(peer.got[0]["payload"]["server_token"], "new")
        self.assertEqual(self.record.token, "new")
        order = {"type": "token_update", "payload": {"server_token": 5}}
        self.complaint(400, "must be a text", self.console("POST", "agents/new/orders", order))

    def test_order_probe(self) -> None:
        """A probe without request_id gets one."""
        peer = self.running()
        order = {"type": "domain_latency_probe", "payload": {"domains": ["a.example"]}}
        self.console("POST", f"agents/{NAME}/orders", order)
        self.assertIn("request_id", peer.got[0]["payload"])

    def test_order_complaints(self) -> None:
        """What cannot be ordered is said, with the fitting status."""
        path = f"agents/{NAME}/orders"
        order = {"type": "x", "payload": {}}
        self.complaint(409, "no WebSocket session", self.console("POST", path, order))
        token_update = {"type": "token_update"}
        self.complaint(409, "no WebSocket session", self.console("POST", path, token_update))
        self.assertEqual(self.record.token, TOKEN)
        self.complaint(404, "'who'", self.console("POST", "agents/who/orders", order))
        self.running()
        bad: list[tuple[Any, str]] = [
            ({"payload": {}}, "type is missing"),
            ({"type": 5}, "type is missing"),
            ({"type": "x", "payload": []}, "payload must be an object"),
            ([], "not an object"),
        ]
        for body, words in bad:
            self.complaint(400, words, self.console("POST", path, body))
        self.complaint(400, "no JSON", self.console("POST", path, data=b"{"))
        self.complaint(413, "1 MiB", self.console("POST", path, data=b" " * 1024 * 1025))

    def test_only_from_here(self) -> None:
        """Orders and faults are for this machine: no other address, proxy or web page."""
        peer = self.running()
        places: list[dict[str, Any]] = [
            {"ip": "198.51.100.7"},
            {"ip": "no address at all"},
            {"headers": {"X-Forwarded-For": "127.0.0.1"}},
            {"headers": {"Origin": "https://elsewhere.example"}},
        ]
        calls = [
            ("POST", f"agents/{NAME}/orders", {"type": "x"}),
            ("POST", "faults", {"fault": "silent-auth"}),
            ("DELETE", "faults", None),
        ]
        for place in places:
            for method, path, body in calls:
                self.complaint(403, "this machine", self.console(method, path, body, **place))
        self.assertEqual((peer.got, self.master.faults.scripted), ([], []))
        self.assertEqual(self.console("GET", "agents", ip="198.51.100.7").status, 200)
        self.assertEqual(self.console("GET", "agents", ip="::1").status, 200)
        order = {"type": "x", "payload": {}}
        self.assertEqual(
            self.console("POST", f"agents/{NAME}/orders", order, ip="::1").status, 200
        )

    def test_faults(self) -> None:
        """Faults are scripted, listed and cleared; and they work."""
        reply = self.console("POST", "faults", {"fault": "answer-push", "status": 503, "times": 2})
        self.assertEqual(reply.json["fault"]["times"], 2)
        self.console("POST", "faults", {"fault": "refuse-auth", "agent": NAME, "message": "no"})
        answer = self.console("GET", "faults").json
        self.assertIs(answer["success"], True)
        listed = answer["faults"]
        self.assertEqual([f["fault"] for f in listed], ["answer-push", "refuse-auth"])
        self.assertEqual([f["agent"] for f in listed], [None, NAME])
        scripted = [entry.fault for entry in self.master.faults.scripted]
        self.assertEqual(scripted, [AnswerPush(503), RefuseAuth("no")])
        self.assertEqual(self.push("heartbeat", BODY_BEAT).status, 503)
        self.assertEqual(self.console("DELETE", "faults").json["removed"], 2)
        self.assertEqual(self.push("heartbeat", BODY_BEAT).status, 200)

    def test_fault_complaints(self) -> None:
        """What is no fault is said."""
        for body, status, words in (
            ({}, 400, "unknown fault"),
            ({"fault": "answer-push", "status": "x"}, 400, "status is 'x'"),
            ({"fault": "silent-auth", "times": 0}, 400, "times is 0"),
            ({"fault": "silent-auth", "times": True}, 400, "times must be"),
            ({"fault": "silent-auth", "agent": 5}, 400, "agent must be"),
            ({"fault": "silent-auth", "agent": "who"}, 404, "'who'"),
        ):
            self.complaint(status, words, self.console("POST", "faults", body))
        self.assertEqual(self.master.faults.scripted, [])

    def test_paths_and_methods(self) -> None:
        """Other paths are 404 and other methods 405, in the one shape of error."""
        for path in ("", "nothing", "agents/", "agents/a/b", "agents/a/orders/1"):
            reply = self.console("GET", path)
            self.assertEqual((reply.status, reply.json["success"]), (404, False))
        self.complaint(404, "'who'", self.console("GET", "agents/who"))
        for method, path in (("POST", "agents"), ("GET", "agents/a/orders"), ("PUT", "faults")):
            self.complaint(405, method, self.console(method, path))
