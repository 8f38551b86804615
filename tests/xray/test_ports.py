"""Tests of which ports a configuration has taken."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from mmwagent.xray.ports import ranges, single, taken


class PortsTests(SynchronousTestCase):
    """A port as Xray lets people write it."""

    def ports(self, port: Any) -> list[int]:
        """Return all that `port` stands for."""
        return [number for part in ranges(port) for number in part]

    def test_ways_to_write_it(self) -> None:
        """A number, a text, a list and a range, with blanks among them."""
        for port, expected in (
            (443, [443]),
            ("443", [443]),
            ("80,443", [80, 443]),
            ("8000-8002", [8000, 8001, 8002]),
            (" 80 , 8000 - 8001 ", [80, 8000, 8001]),
            ("65535", [65535]),
        ):
            with self.subTest(port=port):
                self.assertEqual(self.ports(port), expected)

    def test_what_is_no_port(self) -> None:
        """Nothing is guessed from what is no port."""
        for port in (None, True, 1.5, 0, -1, 65536, "", "x", "env:PORT", "9-1", "1-", "²", [443]):
            with self.subTest(port=port):
                self.assertEqual(self.ports(port), [])
        self.assertEqual(self.ports("x,443"), [443])

    def test_single(self) -> None:
        """One port is told as such, however it is written; several are not."""
        for port, expected in ((443, 443), ("443", 443), ("443-443", 443)):
            self.assertEqual(single(port), expected)
        for port in ("443,444", "443-444", "443,443", None, "env:X"):
            self.assertIsNone(single(port))


class TakenTests(SynchronousTestCase):
    """Who has a port."""

    DOCUMENT: dict[str, Any] = {  # noqa: RUF012
        "inbounds": [
            {"tag": "web", "port": "443,8000-8010"},
            {"port": 1080},
            {"tag": "odd", "port": None},
            "junk",
        ],
        "api": {"listen": "127.0.0.1:10085"},
        "metrics": {"listen": ":38889"},
    }

    def test_who(self) -> None:
        """Inbounds by their tag, and the two listeners beside them."""
        ports = taken(self.DOCUMENT)
        for port, owner in (
            (443, "the inbound 'web'"),
            (8005, "the inbound 'web'"),
            (1080, "the inbound ''"),
            (10085, "api.listen"),
            (38889, "metrics.listen"),
            (444, None),
        ):
            with self.subTest(port=port):
                self.assertEqual(ports.who(port), owner)
                self.assertEqual(port in ports, owner is not None)

    def test_nothing(self) -> None:
        """An empty configuration has no port, nor has one of junk."""
        for document in ({}, {"inbounds": 1, "api": [], "metrics": "x"}):
            self.assertNotIn(443, taken(document))
