"""The master's address."""

from __future__ import annotations

from pathlib import Path

import trustme
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mmwagent.uplink.address import MasterAddress, endpoint_to, trust_root


class AddressTests(SynchronousTestCase):
    """URLs of the master's doors."""

    def test_urls(self) -> None:
        """http gives ws, https gives wss; a sub-path is kept, and ports are the schemes' own."""
        for base, websocket, traffic, host, port in (
            ("http://m.test", "ws://m.test/api/remote/ws", "http://m.test", "m.test", 80),
            ("https://m.test", "wss://m.test/api/remote/ws", "https://m.test", "m.test", 443),
            (
                "https://m.test:8443/a/b",
                "wss://m.test:8443/a/b/api/remote/ws",
                "https://m.test:8443/a/b",
                "m.test",
                8443,
            ),
            (
                "http://[::1]:81",
                "ws://[::1]:81/api/remote/ws",
                "http://ipv6-literal.invalid:81",
                "::1",
                81,
            ),
        ):
            with self.subTest(base=base):
                address = MasterAddress(base)
                self.assertEqual(address.websocket, websocket)
                self.assertEqual(address.report("traffic"), f"{traffic}/api/remote/traffic")
                self.assertEqual((address.host, address.port), (host, port))
                self.assertEqual(
                    f"{base.split(':')[0]}://{address.authority}", base.split("/a/")[0]
                )
                self.assertEqual(address.secure, base.startswith("https"))

    def test_endpoints(self) -> None:
        """Every attempt gets an endpoint of its own, whatever sort of host it is."""
        for base in ("http://m.test", "https://m.test", "https://[::1]", "https://127.0.0.1"):
            make = endpoint_to(Clock(), MasterAddress(base), trust_root(None))
            self.assertIsNot(make(), make())


class TrustTests(SynchronousTestCase):
    """The authorities of a CA file."""

    def test_all_of_a_file(self) -> None:
        """Every certificate of the file is loaded."""
        bundle = b"".join(trustme.CA().cert_pem.bytes() for _ in range(3))
        path = Path(self.mktemp())
        path.write_bytes(bundle)
        self.assertTrue(trust_root(str(path)))

    def test_missing(self) -> None:
        """A file that is not there is an error, not the system's authorities."""
        self.assertRaises(OSError, trust_root, self.mktemp())
