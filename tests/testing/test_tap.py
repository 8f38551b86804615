"""`twistd -n mmw-standin-master`: mmwagent.testing.tap."""

from __future__ import annotations

import sys
from io import StringIO
from pathlib import Path
from typing import Any

import trustme
from twisted.application.service import IService
from twisted.internet.address import IPv4Address
from twisted.internet.defer import fail, succeed
from twisted.internet.endpoints import TCP4ServerEndpoint, TCP6ServerEndpoint
from twisted.internet.error import CannotListenError
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import formatEvent
from twisted.logger._capture import capturedLogs
from twisted.plugin import getPlugins
from twisted.python.usage import UsageError
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from mmwagent.testing import tap
from mmwagent.testing.master import StandInMaster
from mmwagent.testing.tap import Listening, Options, make_endpoint, makeService


def parsed(*arguments: str) -> Options:
    """Return the options of a command line."""
    options = Options()
    options.parseOptions(arguments)
    return options


class OptionsTests(SynchronousTestCase):
    """The command line."""

    def complaint(self, words: str, *arguments: str) -> None:
        """See that a command line is refused, and why."""
        error = self.assertRaises(UsageError, parsed, *arguments)
        self.assertIn(words, str(error))

    def test_defaults(self) -> None:
        """By default it listens on this machine only, and says everything."""
        options = parsed()
        self.assertEqual(options.address, ("127.0.0.1", 8889))
        self.assertEqual((options.servers, bool(options["quiet"])), ({}, False))

    def test_tokens(self) -> None:
        """Tokens come with a name or get one; an "=" at a token's end is its own."""
        options = parsed("--token", "edge=abc", "--token", "xyz", "--token", "c2VjcmV0==")
        self.assertEqual(
            options.servers, {"edge": "abc", "agent-2": "xyz", "agent-3": "c2VjcmV0=="}
        )
        self.assertEqual(parsed("--token", "e=c2VjcmV0==").servers, {"e": "c2VjcmV0=="})

    def test_bad_tokens(self) -> None:
        """An empty name or token, or one given twice, is refused without showing it all."""
        self.complaint("empty", "--token", "=abc")
        self.complaint("empty", "--token", " ")
        self.complaint("twice", "--token", "a=1", "--token", "a=2")
        self.complaint("twice", "--token", "a=1", "--token", "b=1")

    def test_addresses(self) -> None:
        """A host and port, an IPv6 one in brackets, or an endpoint description."""
        self.assertEqual(parsed("--listen", "0.0.0.0:80").address, ("0.0.0.0", 80))
        self.assertEqual(parsed("--listen", "[::1]:80").address, ("::1", 80))
        for text in ("tcp:8889", "tcp:8889:interface=127.0.0.1", "unix:/tmp/x"):
            self.assertIsNone(parsed("--listen", text).address)

    def test_bad_addresses(self) -> None:
        """What is neither is refused by name."""
        for text in ("8889", "host", "host:x", "host:70000", ":80", "::1:80", "tcp:x", "tcp"):
            self.complaint("--listen", "--listen", text)
        self.complaint("brackets", "--listen", "::1:80")

    def test_bad_certificates(self) -> None:
        """Certificate and key go together, exist, and belong to each other."""
        here = __file__
        self.complaint("go together", "--certificate", here)
        self.complaint("no such file", "--certificate", here, "--key", "/nowhere")
        self.complaint("--certificate", "--certificate", here, "--key", here)
        tls = ("--certificate", here, "--key", here)
        self.complaint("ssl:", "--listen", "tcp:1", *tls)


class EndpointTests(SynchronousTestCase):
    """Where it listens."""

    def setUp(self) -> None:
        """Make a reactor that only writes down what it is asked for."""
        self.reactor: Any = MemoryReactorClock()

    def listen(self, *arguments: str) -> None:
        """Open the endpoint of a command line."""
        site = StandInMaster(Clock()).site
        self.successResultOf(make_endpoint(self.reactor, parsed(*arguments)).listen(site))

    def test_plain(self) -> None:
        """HOST:PORT is TCP, of either family."""
        self.listen("--listen", "127.0.0.1:81")
        self.listen("--listen", "[::1]:82")
        self.listen("--listen", "tcp:83")
        ports = [(port, interface) for port, _, _, interface in self.reactor.tcpServers]
        self.assertEqual(ports, [(81, "127.0.0.1"), (82, "::1"), (83, "")])

    def test_family(self) -> None:
        """An address in brackets is IPv6."""
        endpoint = make_endpoint(self.reactor, parsed("--listen", "[::1]:82"))
        self.assertIsInstance(endpoint, TCP6ServerEndpoint)
        endpoint = make_endpoint(self.reactor, parsed("--listen", "127.0.0.1:0"))
        self.assertIsInstance(endpoint, TCP4ServerEndpoint)

    def test_tls(self) -> None:
        """With a certificate it is TLS, with the chain of the file."""
        authority = trustme.CA().create_child_ca()
        pair = authority.issue_cert("master.example")
        chain, key = Path(self.mktemp()), Path(self.mktemp())
        chain.write_bytes(b"".join(pem.bytes() for pem in pair.cert_chain_pems))
        key.write_bytes(pair.private_key_pem.bytes())
        self.listen("--certificate", str(chain), "--key", str(key))
        ((port, _, context, _, interface),) = self.reactor.sslServers
        self.assertEqual((port, interface), (8889, "127.0.0.1"))
        self.assertEqual(len(context.extraCertChain), len(pair.cert_chain_pems) - 1)
        context.getContext().check_privatekey()


class ServiceTests(SynchronousTestCase):
    """The service."""

    def listening(self, outcome: Any) -> tuple[Listening, list[str], list[None]]:
        """Start the service on an endpoint that has this outcome; return it, log, give-ups."""

        class Endpoint:
            def listen(self, factory: Any) -> Any:
                return outcome

        endpoint: Any = Endpoint()
        given_up: list[None] = []
        service = Listening(
            endpoint, StandInMaster(Clock(), {"edge": "t"}), lambda: given_up.append(None)
        )
        with capturedLogs() as events:
            service.startService()
        return service, [formatEvent(event) for event in events], given_up

    def test_listens(self) -> None:
        """It says where it listens and whom it knows, and closes the port at the end."""

        class Port:
            stopped = False

            def getHost(self) -> IPv4Address:
                return IPv4Address("TCP", "127.0.0.1", 8889)

            def stopListening(self) -> Any:
                self.stopped = True
                return succeed(None)

        port = Port()
        service, lines, given_up = self.listening(succeed(port))
        self.assertEqual(
            lines, ["stand-in master listens on 127.0.0.1:8889", "it knows the agent edge"]
        )
        stopped = service.stopService()
        assert stopped is not None
        self.successResultOf(stopped)
        self.assertEqual((port.stopped, given_up), (True, []))

    def test_no_port(self) -> None:
        """A port that is taken is one clear line, and the end."""
        error = CannotListenError("127.0.0.1", 8889, OSError("in use"))
        service, lines, given_up = self.listening(fail(error))
        self.assertEqual(len(lines), 1)
        self.assertIn("cannot listen", lines[0])
        self.assertIn("8889", lines[0])
        self.assertEqual(given_up, [None])
        self.assertIsNone(service.stopService())

    def test_makes_service(self) -> None:
        """makeService builds a service that starts nothing, with the tokens given."""
        service = makeService(parsed("--token", "edge=abc"))
        self.assertTrue(verifyObject(IService, service))
        assert isinstance(service, Listening)
        self.assertEqual([r.name for r in service._master.agents], ["edge"])
        self.assertEqual(len(service._master._panel.observers), 1)

    def test_quiet(self) -> None:
        """With --quiet nobody writes a journal."""
        service = makeService(parsed("--token", "abc", "--quiet"))
        assert isinstance(service, Listening)
        self.assertEqual(service._master._panel.observers, [])

    def test_demo_token(self) -> None:
        """Without tokens there is a demo agent, and its token is printed."""
        printed = StringIO()
        self.patch(sys, "stdout", printed)
        service = makeService(parsed())
        assert isinstance(service, Listening)
        self.assertEqual(service._master.agents[0].token, tap.DEMO_TOKEN)
        self.assertIn(tap.DEMO_TOKEN, printed.getvalue())

    def test_plugin(self) -> None:
        """twistd finds it."""
        from twisted.application.service import IServiceMaker

        names = [maker.tapname for maker in getPlugins(IServiceMaker)]
        self.assertIn("mmw-standin-master", names)
