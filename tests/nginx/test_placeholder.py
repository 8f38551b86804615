"""Tests of certificates that stand in."""

from __future__ import annotations

from datetime import timedelta

from OpenSSL import crypto
from twisted.trial.unittest import SynchronousTestCase

from mmwagent.nginx.placeholder import LIFE, ORGANISATION, placeholder
from tests.nginx.helpers import NOW


class PlaceholderTests(SynchronousTestCase):
    """A certificate until the real one comes."""

    def test_pair(self) -> None:
        """It is for the name, says what it is, and has its own key."""
        certificate, key = placeholder("*.example.com", NOW)
        loaded = crypto.load_certificate(crypto.FILETYPE_PEM, certificate)
        private = crypto.load_privatekey(crypto.FILETYPE_PEM, key)
        self.assertEqual(
            crypto.dump_publickey(crypto.FILETYPE_PEM, loaded.get_pubkey()),
            crypto.dump_publickey(crypto.FILETYPE_PEM, private),
        )
        self.assertEqual(loaded.get_subject().O, ORGANISATION)
        self.assertIn(b"*.example.com", crypto.dump_certificate(crypto.FILETYPE_TEXT, loaded))

    def test_short_life(self) -> None:
        """It does not live long enough to be forgotten, and is each time another."""
        certificate, key = placeholder("a.b", NOW)
        loaded = crypto.load_certificate(crypto.FILETYPE_PEM, certificate)
        until = f"{NOW + LIFE:%Y%m%d%H%M%SZ}".encode("ascii")
        self.assertEqual(loaded.get_notAfter(), until)
        self.assertLess(LIFE, timedelta(days=60))
        self.assertNotEqual(placeholder("a.b", NOW)[1], key)

    def test_longest_name(self) -> None:
        """A name longer than a common name may be is no problem."""
        placeholder(".".join(["a" * 60] * 4), NOW)
