"""The HTTP doors: mmwagent.testing.pushes, over a network in memory."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from twisted.web.client import ResponseFailed, ResponseNeverReceived

from mmwagent.testing.faults import AnswerPush, CutPush, DelayPush, HangPush
from tests.testing.scene import BODY_BEAT, HEADERS, NAME, START, TOKEN, UA, Reply, Scene, stats

NAMES = ("traffic", "speed", "heartbeat", "token/refresh")
SPEED = {"upload_speed": 1, "download_speed": 2}
BEARER = f"Bearer {TOKEN}"


class CheckTests(Scene):
    """Method, User-Agent and token, in this order."""

    def with_headers(self, name: str, **headers: str) -> Reply:
        """Push with the right User-Agent and these headers only."""
        fields = {key.replace("_", "-"): value for key, value in headers.items()}
        return self.push(name, BODY_BEAT, headers={"User-Agent": UA, **fields})

    def test_method(self) -> None:
        """Anything but POST gets 405 as text, before anything else is looked at."""
        for name in NAMES:
            for method in ("GET", "PUT", "DELETE", "PATCH"):
                reply = self.push(name, method=method, headers={})
                self.assertEqual((reply.status, reply.body), (405, b"Method not allowed\n"))

    def test_user_agent(self) -> None:
        """A wrong User-Agent gets 403 in each endpoint's own words, before the token."""
        bodies = {
            "traffic": {"success": False, "error": "Forbidden"},
            "speed": {"success": False, "error": "Forbidden"},
            "heartbeat": {"success": False, "message": "Forbidden", "server_time": 1777636800},
            "token/refresh": {"success": False, "message": "Forbidden"},
        }
        for name, body in bodies.items():
            for agent in ("miaomiaowux/0.2", "Miaomiaowux/0.1"):
                reply = self.push(name, SPEED, headers={"User-Agent": agent})
                self.assertEqual((reply.status, reply.json), (403, body))
        self.assertEqual(self.rules, ["user-agent"] * 8)

    def test_user_agent_of_a_known_agent(self) -> None:
        """The breach goes to the agent whose token the push carries."""
        self.push("speed", SPEED, headers={**HEADERS, "User-Agent": "curl"})
        self.assertEqual([v.rule for v in self.record.violations], ["user-agent"])

    def test_no_token(self) -> None:
        """No token gets 401 in each endpoint's own words."""
        words = {
            "traffic": ("error", "Missing authentication token"),
            "speed": ("error", "Missing authentication token"),
            "heartbeat": ("message", "缺少认证Token"),
            "token/refresh": ("message", "Missing MM-Remote-Token header"),
        }
        for name, (key, text) in words.items():
            reply = self.with_headers(name)
            self.assertEqual((reply.status, reply.json[key]), (401, text))
            self.assertIs(reply.json["success"], False)
        self.assertIn("缺少".encode(), self.with_headers("heartbeat").body)

    def test_unknown_token(self) -> None:
        """An unknown token gets 401 in each endpoint's own words."""
        words = {
            "traffic": ("error", "Invalid token"),
            "speed": ("error", "Invalid token"),
            "heartbeat": ("message", "无效的Token"),
            "token/refresh": ("message", "Invalid token"),
        }
        for name, (key, text) in words.items():
            reply = self.with_headers(name, X_Remote_Token="no", MM_Remote_Token="no")
            self.assertEqual((reply.status, reply.json[key]), (401, text))
        self.assertEqual(len(self.master.strangers.of("traffic", accepted=False)), 1)

    def test_token_of_heartbeat(self) -> None:
        """Heartbeat and token refresh read MM-Remote-Token alone."""
        for name, status in (("heartbeat", 200), ("token/refresh", 400)):
            self.assertEqual(self.with_headers(name, MM_Remote_Token=TOKEN).status, status)
            for headers in ({"Authorization": BEARER}, {"X_Remote_Token": TOKEN}):
                self.assertEqual(self.with_headers(name, **headers).status, 401)

    def test_token_of_traffic_and_speed(self) -> None:
        """Traffic and speed read X-Remote-Token, else a Bearer; never MM-Remote-Token."""
        for name in ("traffic", "speed"):
            self.assertEqual(self.with_headers(name, X_Remote_Token=f" {TOKEN} ").status, 200)
            self.assertEqual(self.with_headers(name, Authorization=BEARER).status, 200)
            self.assertEqual(self.with_headers(name, MM_Remote_Token=TOKEN).status, 401)

    def test_bearer_is_strict(self) -> None:
        """A bare token, or another case of Bearer, is no token."""
        for value in (TOKEN, f"bearer {TOKEN}", f"Basic {TOKEN}"):
            self.assertEqual(self.with_headers("speed", Authorization=value).status, 401)

    def test_wrong_header_wins(self) -> None:
        """A wrong X-Remote-Token beats a right Bearer."""
        reply = self.with_headers("speed", X_Remote_Token="no", Authorization=BEARER)
        self.assertEqual(reply.status, 401)

    def test_all_three_headers(self) -> None:
        """A push that lacks one of the three headers, or whose tokens differ, is a breach."""
        self.push("heartbeat", BODY_BEAT)
        self.assertEqual(self.rules, [])
        for name in ("Authorization", "MM-Remote-Token", "X-Remote-Token"):
            headers = {key: value for key, value in HEADERS.items() if key != name}
            self.push("speed", SPEED, headers=headers)
        self.push("speed", SPEED, headers={**HEADERS, "MM-Remote-Token": "other"})
        self.assertEqual(self.rules, ["headers"] * 4)
        self.assertIn("no token in MM-Remote-Token", self.record.violations[1].detail)

    def test_paths(self) -> None:
        """Paths are exact; whatever else is asked gets 404 as text."""
        for path in ("/", "/api/remote/", "/api/remote/traffic/", "/api/remote/config", "/x"):
            reply = self.ask(path, SPEED)
            self.assertEqual((reply.status, reply.body), (404, b"404 page not found\n"))


class BodyTests(Scene):
    """What each endpoint does with a body."""

    def test_traffic(self) -> None:
        """Traffic is summed over both doors, and answered."""
        self.push("heartbeat", BODY_BEAT)
        self.push("traffic", stats(100))
        reply = self.push("traffic", stats(130))
        self.assertEqual(
            (reply.status, reply.json),
            (200, {"success": True, "message": "Traffic data received"}),
        )
        self.tell(self.running(), "traffic", stats(150))
        self.assertEqual(self.record.traffic.total("user", "uplink"), 150)
        reports = self.record.of("traffic", accepted=True)
        self.assertEqual([report.door for report in reports], ["http"] * 2 + ["websocket"])
        self.assertEqual(self.rules, [])

    def test_traffic_without_stats(self) -> None:
        """Without stats it is fine, but nothing is processed, nor the status refreshed."""
        for body in ({}, {"stats": None}):
            reply = self.push("traffic", body)
            self.assertEqual((reply.status, reply.json["message"]), (200, "No stats to process"))
        self.assertEqual(self.master.status(NAME), "pending")
        self.push("traffic", {"stats": {}})
        self.assertEqual(self.master.status(NAME), "connected")

    def test_traffic_before_heartbeat(self) -> None:
        """Traffic before any heartbeat of the agent is a breach."""
        self.push("traffic", stats(1))
        self.assertEqual(self.rules, ["order"])

    def test_bad_bodies(self) -> None:
        """Wrong types and no JSON get 400, and change nothing."""
        self.push("heartbeat", BODY_BEAT)
        bad: list[tuple[str, Any]] = [
            ("traffic", {"stats": []}),
            ("traffic", {"stats": {"user": {"a@b": {"uplink": 5.0}}}}),
            ("speed", {"upload_speed": "5", "download_speed": 1}),
            ("speed", []),
        ]
        for name, body in bad:
            reply = self.push(name, body)
            self.assertEqual(
                (reply.status, reply.json),
                (400, {"success": False, "error": "Invalid request body"}),
            )
        self.assertEqual(self.push("traffic", data=b"{").status, 400)
        self.assertEqual(self.rules, ["shape", "integer", "integer", "shape", "json"])
        self.assertEqual((self.record.traffic.totals, self.record.speed), ({}, None))
        self.assertEqual(len(self.record.of("traffic", accepted=False)), 3)

    def test_speed(self) -> None:
        """Speed is kept and answered, but does not refresh the status."""
        reply = self.push("speed", SPEED)
        self.assertEqual(reply.json, {"success": True, "message": "Speed data received"})
        self.assertEqual(self.record.speed and self.record.speed.download, 2)
        self.assertEqual(self.master.status(NAME), "pending")

    def test_heartbeat(self) -> None:
        """A heartbeat is stored; the answer tells the time and when the token expires."""
        reply = self.push("heartbeat", BODY_BEAT, ip="198.51.100.7")
        self.assertEqual(
            reply.json,
            {
                "success": True,
                "message": "心跳成功",
                "server_time": 1777636800,
                "token_expires_at": 1777636800 + 7 * 86400,
            },
        )
        self.assertEqual((self.record.listen_port, self.record.boot_count), (23889, 1))
        self.assertEqual(self.record.ip_address, "198.51.100.7")
        self.assertEqual(self.master.status(NAME), "connected")
        self.assertIsNone(self.record.frame_heartbeat)

    def test_heartbeat_address(self) -> None:
        """Behind a proxy the first X-Forwarded-For is the address, else X-Real-IP."""
        headers = {**HEADERS, "X-Real-IP": "203.0.113.5"}
        self.push("heartbeat", BODY_BEAT, headers=headers)
        self.assertEqual(self.record.ip_address, "203.0.113.5")
        headers["X-Forwarded-For"] = "203.0.113.9, 10.0.0.1"
        self.push("heartbeat", BODY_BEAT, headers=headers)
        self.assertEqual(self.record.ip_address, "203.0.113.9")

    def test_heartbeat_bad_types(self) -> None:
        """Wrong types are answered 200, and zeros overwrite what was stored."""
        self.push("heartbeat", BODY_BEAT)
        for body in ({"listen_port": "23889", "boot_time": "2026-05-01T11:00:00Z"}, {}, [1]):
            self.assertEqual(self.push("heartbeat", body).status, 200)
            self.assertEqual((self.record.listen_port, self.record.boot_time), (0, None))
        self.assertIn("integer", self.rules)
        self.assertIn("listen-port", self.rules)

    def test_heartbeat_restarts(self) -> None:
        """The answer tells a restart of agent and Xray, but not the first start."""
        body = {**BODY_BEAT, "xray_boot_time": 1777633200}
        self.assertNotIn("mmwx_restarted", self.push("heartbeat", body).json)
        body = {**body, "boot_time": body["boot_time"] + 1, "xray_boot_time": 1777633201}
        answer = self.push("heartbeat", body).json
        self.assertIs(answer["mmwx_restarted"], True)
        self.assertIs(answer["xray_restarted"], True)
        self.assertNotIn("mmwx_restarted", self.push("heartbeat", body).json)

    def test_one_boot_over_both_doors(self) -> None:
        """The same second in both forms is the same boot."""
        self.running()
        self.push("heartbeat", BODY_BEAT)
        self.assertEqual(self.record.boot_count, 1)

    def test_expiry_soon(self) -> None:
        """A day before the token expires the heartbeat's answer says so; it still works."""
        self.record.expires_at = START + timedelta(hours=24, seconds=1)
        self.assertNotIn("token_expires_soon", self.push("heartbeat", BODY_BEAT).json)
        self.record.expires_at = START - timedelta(days=1)
        self.assertIs(self.push("heartbeat", BODY_BEAT).json["token_expires_soon"], True)

    def test_refresh(self) -> None:
        """A refresh near expiry gives a new token for a week; the old one is dead at once."""
        peer = self.running()
        self.record.expires_at = START + timedelta(hours=23)
        answer = self.push("token/refresh").json
        self.assertEqual(answer["expires_at"], 1777636800 + 7 * 86400)
        self.assertEqual(self.record.token, answer["new_token"])
        self.assertEqual(self.record.events[-1].detail, "token refreshed by the agent")
        self.assertEqual(self.push("speed", SPEED).status, 401)
        self.assertEqual((peer.got, peer.ended), ([], None))
        self.assertTrue(self.master.connected(NAME))

    def test_refresh_too_early(self) -> None:
        """Before that it is refused."""
        reply = self.push("token/refresh")
        self.assertEqual(reply.status, 400)
        self.assertIn("within 24 hours", reply.json["message"])
        self.assertEqual(self.record.token, TOKEN)


class PushFaultTests(Scene):
    """What can go wrong with a push."""

    def test_status(self) -> None:
        """A push can be answered with any status, and is not taken."""
        self.master.script(AnswerPush(429, retry_after=60), times=1)
        reply = self.push("heartbeat", BODY_BEAT)
        self.assertEqual(reply.status, 429)
        self.assertEqual(reply.headers.getRawHeaders("Retry-After"), ["60"])
        self.assertEqual(reply.json, {"success": False, "error": "scripted"})
        self.assertIsNone(self.record.heartbeat)
        self.assertEqual([r.accepted for r in self.record.of("heartbeat")], [False])
        self.assertEqual(self.push("heartbeat", BODY_BEAT).status, 200)

    def test_body_and_redirect(self) -> None:
        """The answer's body and a redirect can be scripted too."""
        self.master.script(AnswerPush(302, body="<html>", location="http://b.example/"))
        reply = self.push("speed", SPEED)
        self.assertEqual((reply.status, reply.body), (302, b"<html>"))
        self.assertEqual(reply.headers.getRawHeaders("Location"), ["http://b.example/"])

    def test_taken(self) -> None:
        """With `taken` the report counts though the answer is bad."""
        self.push("heartbeat", BODY_BEAT)
        self.master.script(AnswerPush(502, taken=True))
        self.assertEqual(self.push("traffic", stats(5)).status, 502)
        self.assertEqual(self.record.traffic.total("user", "uplink"), 5)

    def test_endpoint_and_agent(self) -> None:
        """A fault can be for one endpoint and one agent."""
        self.master.add_server("other", "token-of-other")
        self.master.script(AnswerPush(500, endpoint="speed"), NAME)
        self.assertEqual(self.push("heartbeat", BODY_BEAT).status, 200)
        self.assertEqual(self.push("speed", SPEED).status, 500)
        headers = {"User-Agent": UA, "X-Remote-Token": "token-of-other"}
        self.assertEqual(self.push("speed", SPEED, headers=headers).status, 200)

    def test_hang(self) -> None:
        """A push can be left without an answer for ever."""
        self.master.script(HangPush())
        reply = self.start("/api/remote/speed", SPEED)
        self.network.advance(3600, step=60)
        self.assertNoResult(reply)
        self.master.stop()
        self.failed(reply, ResponseNeverReceived)

    def test_cut(self) -> None:
        """An answer can be cut in the middle, taken or not."""
        self.push("heartbeat", BODY_BEAT)
        self.master.script(CutPush(taken=True))
        self.failed(self.start("/api/remote/traffic", stats(5)), ResponseFailed)
        self.assertEqual(self.record.traffic.total("user", "uplink"), 5)

    def test_delay(self) -> None:
        """An answer can come late; the report is taken at once."""
        self.master.script(DelayPush(10))
        reply = self.start("/api/remote/speed", SPEED)
        self.network.advance(9)
        self.assertNoResult(reply)
        self.assertIsNotNone(self.record.speed)
        self.network.advance(1)
        self.assertEqual(self.successful(reply).status, 200)

    def test_delay_and_gone(self) -> None:
        """If the agent leaves before a late answer, nothing is sent and no timer stays."""
        self.master.script(DelayPush(10))
        reply = self.start("/api/remote/speed", SPEED)
        self.network.cut()
        self.failed(reply)
        self.network.advance(31)
        self.assertEqual(self.clock.getDelayedCalls(), [])
