"""Tests of whether a site can be what the master is to make of it."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, execute, succeed
from twisted.trial.unittest import SynchronousTestCase

from mmwagent.host.latency import Latency
from mmwagent.manage.errors import ApiError
from mmwagent.manage.sites import SitesResource, Unfit, address


class FakeProber:
    """Answers as told, and notes what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.latency = Latency("", "", True, 12, "")

    def probe(self, texts: list[str], timeout_ms: int) -> Deferred[list[Latency]]:
        """Probe nothing."""
        self.asked.append((texts, timeout_ms))
        return succeed([self.latency])


class ValidateTests(SynchronousTestCase):
    """POST validate-site."""

    def setUp(self) -> None:
        """Make a directory with a page."""
        self.prober: Any = FakeProber()
        self.resource = SitesResource(self.prober, execute)
        self.home = Path(self.mktemp()).absolute()
        self.home.mkdir()
        (self.home / "index.html").touch()

    def ask(self, site_type: Any, value: Any) -> Deferred[dict[str, Any]]:
        """Ask whether `value` will do."""
        request: Any = FakeProber()
        body = {"site_type": site_type, "site_value": value}
        request.content = BytesIO(json.dumps(body).encode("ascii"))
        return Deferred.fromCoroutine(self.resource.validate(request))

    def verdict(self, site_type: str, value: str) -> tuple[bool, str]:
        """Return success and message."""
        answer = self.successResultOf(self.ask(site_type, value))
        self.assertEqual(set(answer), {"success", "message"})
        return answer["success"], answer["message"]

    def test_directory(self) -> None:
        """A directory with a page will do."""
        self.assertEqual(
            self.verdict("static", f" {self.home} "), (True, "the directory is there")
        )

    def test_directory_without_a_page(self) -> None:
        """Without a page it will do as well, but the message says so."""
        (self.home / "index.html").unlink()
        success, message = self.verdict("static", str(self.home))
        self.assertTrue(success)
        self.assertIn("no index.html", message)

    def test_no_directory(self) -> None:
        """A file, nothing, and paths that are not absolute will not do."""
        for value in (
            str(self.home / "index.html"),
            str(self.home / "none"),
            f"{self.home}/../{self.home.name}",
            "relative",
            "",
            "/" + "x" * 3000,
            "/" + "x" * 300,
        ):
            success, message = self.verdict("static", value)
            self.assertFalse(success, value)
            self.assertTrue(message)

    def test_never_served(self) -> None:
        """Directories of the system are not served, not even through a link."""
        (self.home / "link").symlink_to("/etc")
        for value in ("/", "/etc", "/etc/ssl", "/proc/self", str(self.home / "link")):
            success, message = self.verdict("static", value)
            self.assertFalse(success, value)
            self.assertIn("must not be served", message)

    def test_signs_of_nginx(self) -> None:
        """What would end a directive, or be something else in one, will not do."""
        for sign in ";{}$\"'\\# \n\t\0\x7f":
            for site_type, value in (
                ("static", f"{self.home}/{sign}x"),
                ("proxy", f"a:1/{sign}x"),
            ):
                self.assertFalse(self.verdict(site_type, value)[0], (site_type, sign))
        self.assertEqual(self.prober.asked, [])

    def test_proxy(self) -> None:
        """A site is tried at the port that its URL has or means, for 3 s."""
        for value, where in (
            ("http://127.0.0.1:8080", "127.0.0.1:8080"),
            ("http://example.com/path?x=1", "example.com:80"),
            ("HTTPS://Example.com/", "example.com:443"),
            ("https://[::1]:8443", "[::1]:8443"),
            ("localhost:3000", "localhost:3000"),
            ("[::1]:80", "[::1]:80"),
        ):
            success, message = self.verdict("proxy", value)
            self.assertTrue(success, message)
            self.assertEqual(self.prober.asked.pop(), ([where], 3000))
            self.assertEqual(message, f"{where} answers within 12 ms")

    def test_unreachable(self) -> None:
        """One that cannot be reached will not do, and the message says why."""
        self.prober.latency = Latency("", "", False, 0, "connection refused")
        self.assertEqual(
            self.verdict("proxy", "a.b:1"), (False, "a.b:1 cannot be reached: connection refused")
        )

    def test_no_address(self) -> None:
        """What names no host and port is not tried."""
        for value in (
            "a.b",
            "a.b:",
            "a.b:0",
            "a.b:99999",
            "a.b:x",
            "a.b:1/path",
            "ftp://a.b",
            "http://",
            "http://:80",
            "http://u:p@a.b",
            "http://unix:/run/x",
            "http://[::1",
            "file:///etc/passwd",
            "//a.b",
        ):
            success, message = self.verdict("proxy", value)
            self.assertFalse(success, value)
            self.assertTrue(message)
        self.assertEqual(self.prober.asked, [])

    @given(st.text(max_size=30))
    def test_any_address(self, value: str) -> None:
        """Any text is an address or is not."""
        try:
            where = address(value)
        except Unfit:
            return
        self.assertTrue(0 < int(where.rpartition(":")[2]) < 65536)

    def test_bad_bodies(self) -> None:
        """Another type, or no value, is an error of whoever asks."""
        for site_type, value, field in (
            ("other", "x", "site_type"),
            (None, "x", "site_type"),
            ([], "x", "site_type"),
            ("static", None, "site_value"),
            ("proxy", 80, "site_value"),
        ):
            problem = self.failureResultOf(self.ask(site_type, value), ApiError).value
            self.assertEqual(problem.status, 400)
            self.assertTrue(problem.error.startswith(field))
