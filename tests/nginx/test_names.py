"""Tests of host names."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mmwagent.nginx.grammar import parse
from mmwagent.nginx.names import NoHostName, file_stem, host_name


class HostNameTests(SynchronousTestCase):
    """The strict grammar."""

    def test_good(self) -> None:
        """Names come out in small ASCII letters, a wildcard with its star."""
        for text, name in (
            ("Example.COM", "example.com"),
            ("a-b.0c.x1", "a-b.0c.x1"),
            ("*.example.com", "*.example.com"),
            ("例え.jp", "xn--r8jz45g.jp"),
            ("*.Bücher.example", "*.xn--bcher-kva.example"),
            (f"{'a' * 63}.b", f"{'a' * 63}.b"),
        ):
            self.assertEqual(host_name(text), name)

    def test_bad(self) -> None:
        """Everything else is refused, with words."""
        for text in (
            "",
            "*",
            "*.",
            "*.*.com",
            "a.*.com",
            "localhost",
            "a..b",
            ".a.b",
            "a.b.",
            "-a.b",
            "a-.b",
            "a_b.com",
            "a b.com",
            "a.com\n",
            "a.com;",
            "a.com/../x",
            "../a.com",
            "a.com:443",
            "127.0.0.1",
            "::1",
            "a\0.com",
            "\u2028.com",
            "\ud800.com",
            f"{'a' * 64}.b",
            "a." * 127 + "com",
            "ä" * 1_000_000 + ".com",
        ):
            problem = self.assertRaises(NoHostName, host_name, text)
            self.assertTrue(str(problem))

    @given(st.text(max_size=30))
    def test_any(self, text: str) -> None:
        """Whatever comes through is one word of a configuration and one component of a path."""
        try:
            name = host_name(text)
        except NoHostName:
            return
        self.assertEqual(parse(f"server_name {name};")[0].words, (name,))
        self.assertNotIn("/", name)
        self.assertEqual(host_name(name), name)

    def test_file_stem(self) -> None:
        """The files of a wildcard have an underscore for the star, as the master names them."""
        self.assertEqual(file_stem("*.example.com"), "_.example.com")
        self.assertEqual(file_stem("example.com"), "example.com")
