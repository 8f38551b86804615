"""Tests of where Xray's counters are asked for."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mmwagent.xray.addresses import DEFAULT_METRICS, Address, metrics_addresses, parse_address


class ParseAddressTests(SynchronousTestCase):
    """Every form of `listen` leads to an address to connect to, or to None."""

    def test_each_form(self) -> None:
        """Host and port, bracketed IPv6, port only as text or number, and wildcards."""
        for listen, expected in (
            ("127.0.0.1:38889", Address("127.0.0.1", 38889)),
            ("192.0.2.7:1", Address("192.0.2.7", 1)),
            (" 10.0.0.1:65535\n", Address("10.0.0.1", 65535)),
            ("[::1]:38889", Address("::1", 38889)),
            ("[2001:db8::7]:80", Address("2001:db8::7", 80)),
            ("xray.example:80", Address("xray.example", 80)),
            ("my_xray-1:80", Address("my_xray-1", 80)),
            (":38889", Address("127.0.0.1", 38889)),
            ("38889", Address("127.0.0.1", 38889)),
            (38889, Address("127.0.0.1", 38889)),
            ("0.0.0.0:80", Address("127.0.0.1", 80)),
            ("*:80", Address("127.0.0.1", 80)),
            ("[::]:80", Address("::1", 80)),
            ("localhost:80", Address("127.0.0.1", 80)),
            ("LocalHost:80", Address("127.0.0.1", 80)),
        ):
            with self.subTest(listen=listen):
                self.assertEqual(parse_address(listen), expected)

    def test_no_address(self) -> None:
        """Sockets of files, IPv6 without brackets, wrong ports and other junk are None."""
        for listen in (
            "",
            "localhost",
            "127.0.0.1",
            "::1:38889",
            "::1",
            "[::1]",
            "[::1]38889",
            "/run/xray.sock",
            "/run/xray.sock,0666",
            "/run/xray:80",
            "unix:/run/xray.sock",
            "@xray",
            "@xray:80",
            "user@host:80",
            "a b:80",
            "a/b:80",
            "a\nb:80",
            "hôst:80",
            "127.0.0.1:0",
            "127.0.0.1:65536",
            "127.0.0.1:-1",
            "127.0.0.1:+1",
            "127.0.0.1:80-90",
            "127.0.0.1:http",
            "127.0.0.1: 80",
            "127.0.0.1:8٣",
            "9" * 5000,
            0,
            -1,
            65536,
            10**4000,
            38889.0,
            True,
            None,
            [],
            {},
            ["127.0.0.1:80"],
        ):
            with self.subTest(listen=str(listen)[:40]):
                self.assertIsNone(parse_address(listen))

    @given(st.text() | st.text(alphabet="0123456789:[].%a", max_size=12) | st.integers())
    def test_whatever_comes(self, listen: object) -> None:
        """Any text or number gives None or an address that a URL can carry."""
        address = parse_address(listen)
        if address is not None:
            self.assertTrue(0 < address.port < 65536)
            self.assertTrue(address.host)
            self.assertTrue(address.url("/x").isascii())
            self.assertNotIn("/", address.host)


class UrlTests(SynchronousTestCase):
    """An address as a URL."""

    def test_hosts(self) -> None:
        """An IPv6 address is put in brackets, others are not."""
        self.assertEqual(Address("::1", 80).url("/debug/vars"), "http://[::1]:80/debug/vars")
        self.assertEqual(Address("a.b", 1).url("/"), "http://a.b:1/")


def old_form(*inbounds: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return a configuration whose metrics are reached by the inbound "m" and a rule."""
    return {
        "metrics": {"tag": "metrics_out"},
        "routing": {"rules": [{"inboundTag": ["m"], "outboundTag": "metrics_out"}]},
        "inbounds": [{"tag": "vless", "port": 443}, *inbounds],
        **more,
    }


class MetricsAddressesTests(SynchronousTestCase):
    """The addresses to try, in their order."""

    def test_metrics_listen_alone(self) -> None:
        """`metrics.listen` is the one true address, whatever else is configured."""
        document = old_form(
            {"tag": "m", "port": 11111},
            metrics={"tag": "metrics_out", "listen": "[::1]:5000"},
            api={"listen": "127.0.0.1:6000"},
        )
        self.assertEqual(metrics_addresses(document), (Address("::1", 5000),))

    def test_old_form_then_api_then_default(self) -> None:
        """An inbound led to the metrics comes first, then `api.listen`, then the default."""
        document = old_form(
            {"tag": "m", "listen": "127.0.0.2", "port": 11111},
            api={"listen": "127.0.0.1:6000"},
        )
        self.assertEqual(
            metrics_addresses(document),
            (Address("127.0.0.2", 11111), Address("127.0.0.1", 6000), DEFAULT_METRICS),
        )

    def test_inbounds_of_the_old_form(self) -> None:
        """Port as number or text, and each way to write the address, lead to the inbound."""
        for inbound, expected in (
            ({"port": 1234}, Address("127.0.0.1", 1234)),
            ({"port": "1234"}, Address("127.0.0.1", 1234)),
            ({"port": 1234, "listen": "0.0.0.0"}, Address("127.0.0.1", 1234)),
            ({"port": 1234, "listen": "::"}, Address("::1", 1234)),
            ({"port": 1234, "listen": "::1"}, Address("::1", 1234)),
            ({"port": 1234, "listen": "[::1]"}, Address("::1", 1234)),
            ({"port": 1234, "listen": None}, Address("127.0.0.1", 1234)),
        ):
            with self.subTest(inbound=inbound):
                addresses = metrics_addresses(old_form({"tag": "m", **inbound}))
                self.assertEqual(addresses, (expected, DEFAULT_METRICS))

    def test_inbounds_that_cannot_be_asked(self) -> None:
        """An inbound on a file, on several ports or on none is passed over."""
        for inbound in (
            {"listen": "/run/m.sock"},
            {"listen": "/run/m.sock", "port": 80},
            {"port": "1000-1010"},
            {"port": "env:PORT"},
            {"port": 0},
            {"port": True},
            {"port": None},
            {"port": []},
            {},
        ):
            with self.subTest(inbound=inbound):
                addresses = metrics_addresses(old_form({"tag": "m", **inbound}))
                self.assertEqual(addresses, (DEFAULT_METRICS,))

    def test_the_readme_default(self) -> None:
        """With nothing configured, or only junk, 127.0.0.1:38889 is what is left."""
        self.assertEqual(DEFAULT_METRICS, Address("127.0.0.1", 38889))
        for document in (
            {},
            {"metrics": None, "api": []},
            {"metrics": {"listen": "/run/m.sock", "tag": 7}, "api": {"listen": None}},
            {"metrics": {"tag": []}, "inbounds": [{"tag": []}]},
        ):
            with self.subTest(document=document):
                self.assertEqual(metrics_addresses(document), (DEFAULT_METRICS,))

    def test_rules_to_elsewhere(self) -> None:
        """Without a tag of the metrics a rule that names no outbound does not lead to them."""
        rule = {"inboundTag": ["m"], "balancerTag": "b"}
        inbound = {"tag": "m", "port": 1234}
        for metrics in ({}, {"tag": None}):
            document = old_form(inbound, metrics=metrics, routing={"rules": [rule]})
            self.assertEqual(metrics_addresses(document), (DEFAULT_METRICS,))

    def test_api_listen(self) -> None:
        """The README's rule, `api.listen`, holds where nothing better is set."""
        document = {"metrics": {"listen": "junk"}, "api": {"listen": ":6000"}}
        self.assertEqual(
            metrics_addresses(document), (Address("127.0.0.1", 6000), DEFAULT_METRICS)
        )

    def test_none_twice(self) -> None:
        """An address that is found in two ways is tried once."""
        document = old_form(
            {"tag": "m", "port": 38889}, {"tag": "m", "port": "38889"}, api={"listen": "38889"}
        )
        self.assertEqual(metrics_addresses(document), (DEFAULT_METRICS,))
