"""One line for each thing: mmwagent.testing.journal."""

from __future__ import annotations

from typing import Any

from twisted.logger import LogLevel, formatEvent
from twisted.logger._capture import capturedLogs

from mmwagent.testing import journal
from tests.testing.scene import BEAT, Scene, stats


class HumanTests(Scene):
    """Bytes as people read them."""

    def test_units(self) -> None:
        """Whole bytes, then one digit after the point in the fitting unit."""
        for count, text in (
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536 * 1024, "1.5 MiB"),
            (5 * 1024**3, "5.0 GiB"),
            (2 * 1024**4, "2.0 TiB"),
            (9000 * 1024**4, "9000.0 TiB"),
        ):
            self.assertEqual(journal.human(count), text)


class JournalTests(Scene):
    """What a person reads."""

    def lines(self, action: Any) -> list[str]:
        """Return what is logged meanwhile."""
        self.master.observe(journal.journal)
        with capturedLogs() as events:
            action()
        mine = [e for e in events if e.get("log_namespace") == "mmwagent.testing.journal"]
        self.levels = [event["log_level"] for event in mine]
        return [formatEvent(event) for event in mine]

    def test_session(self) -> None:
        """Handshake, auth, connection and heartbeat each have a line; no line has the token."""
        lines = self.lines(self.running)
        self.assertEqual(
            lines,
            [
                "(unknown): handshake: 127.0.0.1",
                "edge: auth by websocket",
                "edge: connected: 127.0.0.1",
                "edge: heartbeat by websocket: port 23889, up since 2026-05-01 11:00:00+00:00,"
                " boot 1",
            ],
        )

    def test_traffic(self) -> None:
        """Traffic has the totals of each kind, and what is new, the most first."""
        peer = self.running()
        self.tell(peer, "traffic", stats(1024, 0, "old@x"))
        users = {f"u{n}": {"uplink": 2048 * n, "downlink": 0} for n in (1, 2, 3, 4)} | {
            "old@x": {"uplink": 1024, "downlink": 0}
        }
        report = {"stats": {"user": users}}
        (line,) = self.lines(lambda: self.tell(peer, "traffic", report))
        self.assertEqual(
            line,
            "edge: traffic by websocket: in all user up 21.0 KiB down 0 B;"
            " new: user u4 up 8.0 KiB down 0 B; user u3 up 6.0 KiB down 0 B;"
            " user u2 up 4.0 KiB down 0 B; and 1 more",
        )

    def test_nothing_new(self) -> None:
        """A report that adds nothing says so."""
        peer = self.running()
        self.tell(peer, "traffic", stats(1024))
        (line,) = self.lines(lambda: self.tell(peer, "traffic", stats(1024)))
        self.assertTrue(line.endswith("new: nothing"))

    def test_others(self) -> None:
        """Speed, scans, certificates and probes are told in words."""
        peer = self.running()
        cases: list[tuple[str, Any, str]] = [
            ("speed", {"upload_speed": 2048, "download_speed": 5}, "up 2.0 KiB/s, down 5 B/s"),
            (
                "scan_result",
                {"xray_running": True, "xray_version": "26.3.27", "inbounds": [{}]},
                "Xray 26.3.27 runs, 1 inbounds",
            ),
            (
                "cert_update",
                {"cert_id": 1, "domain": "a.example", "success": False, "error": "late"},
                "a.example failed: late",
            ),
            ("scan_result", {"xray_running": False}, "Xray  does not run, 0 inbounds"),
            (
                "cert_update",
                {"cert_id": 1, "domain": "a.example", "success": True},
                "a.example issued",
            ),
            (
                "domain_latency_result",
                {
                    "request_id": "1",
                    "success": True,
                    "results": [
                        {"domain": "a", "success": True, "latency_ms": 1},
                        {"domain": "b", "success": False, "latency_ms": 0},
                    ],
                },
                "1 of 2 domains answered",
            ),
        ]
        for type, payload, words in cases:
            self.master._panel.observers.clear()
            (line,) = self.lines(lambda t=type, p=payload: self.tell(peer, t, p))
            self.assertEqual(line, f"edge: {type} by websocket: {words}")

    def test_breach(self) -> None:
        """A breach is a warning, and a refused report says that it was."""
        peer = self.running()
        lines = self.lines(lambda: self.tell(peer, "speed", {"upload_speed": 5.0}))
        self.assertEqual(
            lines,
            [
                "edge: breaks the rule integer: upload_speed is 5.0, not an integer",
                "edge: speed by websocket, refused",
            ],
        )
        self.assertEqual(self.levels, [LogLevel.warn, LogLevel.info])

    def test_no_token(self) -> None:
        """No line shows a token."""

        def rotate() -> None:
            self.tell(self.running(), "heartbeat", BEAT)
            self.master.rotate_token("edge", "SECRET")
            self.network.flush()

        lines = self.lines(rotate)
        self.assertIn("edge: order: token_update", lines)
        self.assertNotIn("SECRET", "".join(lines))
