"""Tests of which ports are free."""

from __future__ import annotations

import socket

from twisted.trial.unittest import SynchronousTestCase

from mmwagent.host.ports import NoFreePort, first_free, is_free


class IsFreeTests(SynchronousTestCase):
    """A port is free if somebody could listen there."""

    def listening(self, host: str) -> int:
        """Listen on a port of `host`, and return it."""
        server = socket.socket()
        self.addCleanup(server.close)
        server.bind((host, 0))
        server.listen()
        port: int = server.getsockname()[1]
        return port

    def test_taken_and_free_again(self) -> None:
        """A port on which somebody listens is taken, and free when that one has gone."""
        with socket.socket() as server:
            server.bind(("127.0.0.1", 0))
            server.listen()
            port = server.getsockname()[1]
            self.assertFalse(is_free(port))
        self.assertTrue(is_free(port))

    def test_on_all_addresses(self) -> None:
        """Who listens on all addresses has the port of the loopback as well."""
        self.assertFalse(is_free(self.listening("0.0.0.0")))

    def test_lingering_connections(self) -> None:
        """Connections that linger after their server has gone do not keep the port."""
        with socket.socket() as server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind(("127.0.0.1", 0))
            server.listen()
            port = server.getsockname()[1]
            client = socket.create_connection(("127.0.0.1", port))
            accepted, _ = server.accept()
            accepted.close()  # the end that closes first lingers
            client.close()
        self.assertTrue(is_free(port))


class FirstFreeTests(SynchronousTestCase):
    """The first port from the preferred one on."""

    def test_preferred(self) -> None:
        """The preferred one is taken if it can be."""
        self.assertEqual(first_free(7000, (), lambda port: True), 7000)

    def test_next(self) -> None:
        """One that somebody has, here or there, is passed over."""
        found = first_free(7000, {7000}, lambda port: port != 7001)
        self.assertEqual(found, 7002)

    def test_not_asked_for_nothing(self) -> None:
        """A port that is taken in the configuration is not tried."""
        asked: list[int] = []
        first_free(7000, range(7002), lambda port: not asked.append(port))
        self.assertEqual(asked, [7002])

    def test_none(self) -> None:
        """At the end of all ports, or after a thousand, that is told."""
        for start in (65530, 7000):
            problem = self.assertRaises(NoFreePort, first_free, start, (), lambda port: False)
            self.assertIn(str(start), str(problem))
        self.assertEqual(first_free(65535, (), lambda port: True), 65535)
