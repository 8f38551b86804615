"""Tests of the port: opened, taken, opened later, closed."""

from __future__ import annotations

from typing import Any

from twisted.internet import reactor  # noqa: TID251  (for the one test with a real port)
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.logger import Logger, LogLevel
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface import implementer

from mmwagent.manage import listening
from mmwagent.manage.listening import RETRY, Listening

WHERE = "*:23889"
TAKEN = CannotListenError("", 23889, OSError(98, "Address already in use"))


class Port:
    """A port that is open until it is told to stop."""

    def __init__(self) -> None:
        self.stopped = 0
        self.closed: Deferred[None] = Deferred()

    def stopListening(self) -> Deferred[None]:
        """Close, some time."""
        self.stopped += 1
        return self.closed


@implementer(IStreamServerEndpoint)
class Endpoint:
    """Gives what it is told to give, each time that somebody wants to listen."""

    def __init__(self, *results: Any) -> None:
        self.results = list(results)
        self.sites: list[object] = []

    def listen(self, protocolFactory: object) -> Deferred[Any]:
        """Give the next result; the last one again and again."""
        self.sites.append(protocolFactory)
        result = self.results.pop(0) if len(self.results) > 1 else self.results[0]
        if isinstance(result, Deferred):
            return result
        return fail(result) if isinstance(result, Exception) else succeed(result)


class ListeningTests(SynchronousTestCase):
    """The port of the management API."""

    def setUp(self) -> None:
        """Make a clock and collect the log."""
        self.clock = Clock()
        self.site = Factory.forProtocol(Protocol)
        self.events: list[Any] = []
        self.patch(listening, "log", Logger(observer=self.events.append))

    def service(self, *endpoints: Endpoint) -> Listening:
        """Return the service on `endpoints`."""
        return Listening(self.clock, lambda: list(endpoints), self.site, WHERE)

    def said(self, level: LogLevel) -> list[str]:
        """Return what was logged at `level`."""
        return [
            event["log_format"].format(**event)
            for event in self.events
            if event["log_level"] is level
        ]

    def test_opens_at_start(self) -> None:
        """It opens the port with the site when it is started, not before, and says where."""
        endpoint = Endpoint(Port())
        service = self.service(endpoint)
        self.assertEqual(endpoint.sites, [])
        service.startService()
        self.assertEqual(endpoint.sites, [self.site])
        self.assertEqual(self.said(LogLevel.info), [f"management API open at {WHERE}"])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stop_waits_for_the_port(self) -> None:
        """Its end is the end of the port."""
        port = Port()
        service = self.service(Endpoint(port))
        service.startService()
        stopped: Any = service.stopService()
        self.assertEqual(port.stopped, 1)
        self.assertNoResult(stopped)
        port.closed.callback(None)
        self.successResultOf(stopped)

    def test_stop_without_a_port(self) -> None:
        """Stopped twice, or before it is started, there is nothing to wait for."""
        port = Port()
        service = self.service(Endpoint(port))
        self.assertIsNone(service.stopService())
        service.startService()
        service.stopService()
        self.assertIsNone(service.stopService())
        self.assertEqual(port.stopped, 1)

    def test_taken(self) -> None:
        """A taken port is one error in the log that says where and why, whatever else runs on."""
        self.service(Endpoint(TAKEN)).startService()
        [error] = self.said(LogLevel.error)
        self.assertIn(WHERE, error)
        self.assertIn("Address already in use", error)
        self.assertIn("every 10 s", error)
        self.assertEqual(len(self.events), 1)

    def test_tried_again(self) -> None:
        """It is tried again each 10 s, without another word."""
        endpoint = Endpoint(TAKEN)
        self.service(endpoint).startService()
        self.clock.advance(RETRY - 0.01)
        self.assertEqual(len(endpoint.sites), 1)
        self.clock.advance(0.01)
        self.assertEqual(len(endpoint.sites), 2)
        self.clock.pump([RETRY] * 8)
        self.assertEqual(len(endpoint.sites), 10)
        self.assertEqual(len(self.events), 1)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)

    def test_opened_later(self) -> None:
        """When the port is free again it is opened, said, served, and no longer tried."""
        port = Port()
        endpoint = Endpoint(TAKEN, TAKEN, port)
        service = self.service(endpoint)
        service.startService()
        self.clock.pump([RETRY] * 2)
        self.assertEqual(self.said(LogLevel.info), [f"management API open at {WHERE}"])
        self.assertEqual(self.clock.getDelayedCalls(), [])
        service.stopService()
        self.assertEqual(port.stopped, 1)

    def test_endpoints_are_asked_for_anew(self) -> None:
        """Each try makes its own endpoints."""
        made: list[int] = []

        def make() -> list[IStreamServerEndpoint]:
            made.append(1)
            return [Endpoint(TAKEN)]

        service = Listening(self.clock, make, self.site, WHERE)
        self.assertEqual(len(made), 0)
        service.startService()
        self.clock.advance(RETRY)
        self.assertEqual(len(made), 2)

    def test_stop_while_retrying(self) -> None:
        """Stopped between two tries it leaves no timer and tries no more."""
        endpoint = Endpoint(TAKEN)
        service = self.service(endpoint)
        service.startService()
        self.assertIsNone(service.stopService())
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.clock.advance(RETRY * 3)
        self.assertEqual(len(endpoint.sites), 1)

    def test_stop_while_opening(self) -> None:
        """A port that opens after the stop is closed at once, and not said to be open."""
        opening: Deferred[Port] = Deferred()
        service = self.service(Endpoint(opening))
        service.startService()
        service.stopService()
        port = Port()
        opening.callback(port)
        self.assertEqual(port.stopped, 1)
        self.assertEqual(self.events, [])

    def test_failure_after_stop(self) -> None:
        """A try that fails after the stop is nobody's concern: no error, no timer."""
        opening: Deferred[Port] = Deferred()
        service = self.service(Endpoint(opening))
        service.startService()
        service.stopService()
        opening.errback(TAKEN)
        self.assertEqual(self.events, [])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_falls_back(self) -> None:
        """Without IPv6 the second endpoint is used, and that is no error."""
        no_ipv6 = CannotListenError("::", 23889, OSError(97, "Address family not supported"))
        port = Port()
        six, four = Endpoint(no_ipv6), Endpoint(port)
        service = self.service(six, four)
        service.startService()
        self.assertEqual((len(six.sites), four.sites), (1, [self.site]))
        self.assertEqual(self.said(LogLevel.error), [])
        self.assertEqual(self.said(LogLevel.info), [f"management API open at {WHERE}"])
        [why] = self.said(LogLevel.debug)
        self.assertIn("Address family not supported", why)
        service.stopService()
        self.assertEqual(port.stopped, 1)

    def test_first_is_enough(self) -> None:
        """Where the first can be opened the second is left alone."""
        six, four = Endpoint(Port()), Endpoint(Port())
        self.service(six, four).startService()
        self.assertEqual((len(six.sites), len(four.sites)), (1, 0))

    def test_both_taken(self) -> None:
        """Where neither can be opened the last one's reason is told, and both are tried again."""
        six, four = Endpoint(ValueError("six")), Endpoint(ValueError("four"))
        self.service(six, four).startService()
        [error] = self.said(LogLevel.error)
        self.assertIn("four", error)
        self.assertNotIn("six", error)
        self.clock.advance(RETRY)
        self.assertEqual((len(six.sites), len(four.sites)), (2, 2))


class RealPortTests(TestCase):
    """The same with a port of this machine."""

    def test_taken_then_free(self) -> Deferred[None]:
        """A port that somebody else holds is opened once they let it go."""
        return Deferred.fromCoroutine(self.take_and_let_go())

    async def take_and_let_go(self) -> None:
        """Do so."""
        events: list[Any] = []
        self.patch(listening, "log", Logger(observer=events.append))
        factory = Factory.forProtocol(Protocol)
        factory.noisy = False
        taken = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(factory)
        number = taken.getHost().port
        clock = Clock()
        service = Listening(
            clock,
            lambda: [TCP4ServerEndpoint(reactor, number, interface="127.0.0.1")],
            factory,
            f"127.0.0.1:{number}",
        )
        service.startService()
        await taken.stopListening()
        clock.advance(RETRY)
        levels = [event["log_level"] for event in events]
        await service.stopService()
        self.assertEqual(levels, [LogLevel.error, LogLevel.info])
