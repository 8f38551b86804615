"""Tests of what each order of the master sets off."""

from __future__ import annotations

from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred, succeed
from twisted.logger import LogLevel, capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from mmwagent.host.latency import Latency
from mmwagent.uplink.failures import LinkFailure
from mmwagent.uplink.messages import (
    AuthResult,
    CertDeploy,
    CertRequest,
    CertUpdate,
    DomainLatencyProbe,
    DomainLatencyResult,
    Other,
    TokenUpdate,
)
from mmwagent.uplink.orders import NoCertificates, Orders

FOUND = [Latency("a.example", "a.example:443", True, 7, "")]


@define
class Answers:
    """In place of a session."""

    ended: bool = False
    sent: list[Any] = field(factory=list)

    def send(self, message: Any) -> None:
        """Note the answer, or fail as a session does that is over."""
        if self.ended:
            raise LinkFailure("the WebSocket is closed")
        self.sent.append(message)


@define
class Work:
    """Everything that orders set off; each piece ends when the test says so."""

    begun: list[Any] = field(factory=list)
    ends: list[Deferred[Any]] = field(factory=list)
    at_once: bool = False

    def begin(self, what: Any, result: Any = None) -> Deferred[Any]:
        """Note that `what` has begun."""
        self.begun.append(what)
        if self.at_once:
            return succeed(result)
        self.ends.append(Deferred())
        return self.ends[-1]

    async def rotate(self, token: str) -> None:
        """Stand for the rotation."""
        await self.begin(token)

    def probe(self, texts: Any, timeout_ms: int) -> Deferred[list[Latency]]:
        """Stand for the prober."""
        return self.begin((texts, timeout_ms), FOUND)

    async def obtain(self, order: CertRequest) -> CertUpdate:
        """Stand for ACME."""
        await self.begin(order)
        return CertUpdate(order.cert_id, order.domain, True)

    async def deploy(self, order: CertDeploy) -> None:
        """Stand for the deployment."""
        await self.begin(order)


def request(cert_id: int, domain: str = "a.example") -> CertRequest:
    """Return an order for a certificate."""
    return CertRequest(cert_id, domain, {})


class Case(SynchronousTestCase):
    """Orders, and work that the test ends."""

    def setUp(self) -> None:
        """Make both."""
        self.work = Work()
        self.answers = Answers()
        self.orders = Orders(self.work.rotate, self.work, self.work)

    def take(self, *messages: Any) -> None:
        """Have orders come."""
        for message in messages:
            self.orders.take(self.answers, message)


class EachTests(Case):
    """What each sort of order sets off."""

    def test_token(self) -> None:
        """A new token is rotated in; there is nothing to answer."""
        self.take(TokenUpdate("new"))
        self.assertEqual(self.work.begun, ["new"])
        self.work.ends[0].callback(None)
        self.assertEqual(self.answers.sent, [])

    def test_probe(self) -> None:
        """A probe is answered with all that was found, once all is found."""
        self.take(DomainLatencyProbe("7-1", ("a.example",), 500))
        self.assertEqual(self.work.begun, [(("a.example",), 500)])
        self.assertEqual(self.answers.sent, [])
        self.work.ends[0].callback(FOUND)
        result = DomainLatencyResult("7-1", True, (FOUND[0].fields(),))
        self.assertEqual(self.answers.sent, [result])

    def test_probe_of_nothing(self) -> None:
        """A probe without a domain is answered as a failure with a reason."""
        self.take(DomainLatencyProbe("7-1", (), 500))
        self.work.ends[0].callback([])
        self.assertEqual(
            self.answers.sent, [DomainLatencyResult("7-1", False, (), "no domain was named")]
        )

    def test_certificate(self) -> None:
        """The outcome of a certificate is answered."""
        self.take(request(4))
        self.work.ends[0].callback(None)
        self.assertEqual(self.answers.sent, [CertUpdate(4, "a.example", True)])

    def test_deployment(self) -> None:
        """A deployment is done, and not answered."""
        order = CertDeploy("a.example", {"cert_pem": "x"})
        self.take(order)
        self.assertEqual(self.work.begun, [order])
        self.work.ends[0].callback(None)
        self.assertEqual(self.answers.sent, [])

    def test_other(self) -> None:
        """What is no order sets nothing off, and is no warning."""
        with capturedLogs() as events:
            self.take(Other("heartbeat_ack"), AuthResult(True))
        self.assertEqual((self.work.begun, self.answers.sent, events), ([], [], []))


class TurnsTests(Case):
    """What runs beside what, and what after what."""

    def test_one_thing_in_order(self) -> None:
        """Orders for one domain run one after the other, in the order in which they came."""
        deploy = CertDeploy("a.example", {})
        self.take(request(1), deploy, request(2))
        self.assertEqual(self.work.begun, [request(1)])
        self.work.ends[0].callback(None)
        self.assertEqual(self.work.begun, [request(1), deploy])
        self.work.ends[1].callback(None)
        self.assertEqual(self.work.begun, [request(1), deploy, request(2)])
        self.work.ends[2].callback(None)
        self.assertEqual([update.cert_id for update in self.answers.sent], [1, 2])

    def test_tokens_in_order(self) -> None:
        """Of two tokens the later is rotated in last."""
        self.take(TokenUpdate("one"), TokenUpdate("two"))
        self.assertEqual(self.work.begun, ["one"])
        self.work.ends[0].callback(None)
        self.assertEqual(self.work.begun, ["one", "two"])

    def test_others_beside(self) -> None:
        """A slow order holds up none for anything else, and no probe another probe."""
        probe = DomainLatencyProbe("7-1", ("a.example",), 500)
        self.take(request(1), request(2, "b.example"), CertDeploy("c.example", {}), probe, probe)
        self.take(TokenUpdate("new"))
        self.assertEqual(len(self.work.begun), 6)
        self.work.ends[4].callback(FOUND)
        self.work.ends[1].callback(None)
        self.assertEqual(
            [type(answer) for answer in self.answers.sent], [DomainLatencyResult, CertUpdate]
        )

    def test_hundred_at_once(self) -> None:
        """Of a hundred orders at once not one is dropped, whichever things they are for."""
        orders = [request(number, f"{number % 7}.example") for number in range(100)]
        self.take(*orders)
        self.assertEqual(len(self.work.begun), 7)
        while self.work.ends:
            self.work.ends.pop(0).callback(None)
        self.assertEqual(len(self.work.begun), 100)
        for domain in range(7):
            mine = [order.cert_id for order in orders if order.domain == f"{domain}.example"]
            done = [u.cert_id for u in self.answers.sent if u.domain == f"{domain}.example"]
            self.assertEqual(done, mine)

    def test_hundred_in_no_time(self) -> None:
        """Work that is done at once is no problem either."""
        self.work.at_once = True
        self.take(*(request(number) for number in range(100)), *[TokenUpdate("x")] * 100)
        self.assertEqual(len(self.work.begun), 200)

    def test_waiting_behind_a_slow_one(self) -> None:
        """Thousands that wait for one thing run one after another, without a deep stack."""
        self.take(*(request(number) for number in range(3000)))
        self.work.at_once = True
        self.work.ends[0].callback(None)
        self.assertEqual([u.cert_id for u in self.answers.sent], list(range(3000)))

    def test_nothing_is_kept(self) -> None:
        """Once all is done nothing is remembered of what it was for."""
        self.take(request(1), request(2), request(3, "b.example"), TokenUpdate("new"))
        while self.work.ends:
            self.work.ends.pop(0).callback(None)
        self.assertEqual(self.orders._waiting, {})
        self.take(request(4))
        self.assertEqual(self.work.begun[-1], request(4))


class FailureTests(Case):
    """Orders that fail."""

    def test_failing(self) -> None:
        """One that fails is told to the log, and the next for the same thing runs."""
        for first, second in (
            (request(1), request(2)),
            (TokenUpdate("one"), TokenUpdate("two")),
            (CertDeploy("a.example", {"n": 1}), CertDeploy("a.example", {"n": 2})),
        ):
            self.setUp()
            self.take(first, second)
            self.work.ends[0].errback(ZeroDivisionError())
            self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
            self.assertEqual(len(self.work.begun), 2)

    def test_failing_at_once(self) -> None:
        """One that raises instead of beginning ends nothing else."""

        def broken(*_: object) -> Any:
            raise ZeroDivisionError

        self.orders.prober = broken
        self.orders.rotate = broken
        self.take(DomainLatencyProbe("7-1", (), 0), TokenUpdate("new"), request(1))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError, AttributeError)), 2)
        self.assertEqual(self.work.begun, [request(1)])

    def test_too_late(self) -> None:
        """An answer for which the session has ended is one line in the log, without secrets."""
        self.take(request(1), DomainLatencyProbe("7-1", ("a.example",), 500))
        self.answers.ended = True
        with capturedLogs() as events:
            self.work.ends[0].callback(None)
            self.work.ends[1].callback(FOUND)
        self.assertEqual(
            [(event["log_level"], formatEvent(event)) for event in events],
            [
                (
                    LogLevel.warn,
                    f"the answer {type_} cannot be given any more: the WebSocket is closed",
                )
                for type_ in ("cert_update", "domain_latency_result")
            ],
        )

    def test_session_of_the_order(self) -> None:
        """An answer goes to the session by which the order came, not to a later one."""
        later = Answers()
        self.take(request(1))
        self.orders.take(later, request(2))
        self.work.ends[0].callback(None)
        self.work.ends[1].callback(None)
        self.assertEqual([update.cert_id for update in self.answers.sent], [1])
        self.assertEqual([update.cert_id for update in later.sent], [2])


class NoCertificatesTests(SynchronousTestCase):
    """As long as there is nothing that obtains or deploys."""

    def setUp(self) -> None:
        """Take orders."""
        self.answers = Answers()
        work = Work()
        self.orders = Orders(work.rotate, work, NoCertificates())

    def test_obtain(self) -> None:
        """An ordered certificate is answered as failed, with the reason and nothing made up."""
        with capturedLogs() as events:
            self.orders.take(self.answers, request(4))
        (update,) = self.answers.sent
        self.assertEqual(
            update.payload(),
            {
                "cert_id": 4,
                "domain": "a.example",
                "success": False,
                "error": "this version of mmw-agent cannot obtain certificates yet",
            },
        )
        self.assertIn("a.example", formatEvent(events[0]) or "")

    def test_deploy(self) -> None:
        """A certificate that is not deployed is an error in the log, which does not show it."""
        order = CertDeploy("a.example", {"key_pem": "s3cret"})
        with capturedLogs() as events:
            self.orders.take(self.answers, order)
        (event,) = events
        self.assertIs(event["log_level"], LogLevel.error)
        self.assertIn("a.example was sent and not deployed", formatEvent(event) or "")
        self.assertNotIn("s3cret", repr(event))
        self.assertEqual(self.answers.sent, [])
