"""Tests of how the counters of all Xray servers are read, with nothing that listens."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import ResponseDone
from twisted.web.http import Request
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

from mmwagent.testing.memory import MemoryNetwork
from mmwagent.xray import metrics
from mmwagent.xray.discovery import XrayServer
from mmwagent.xray.metrics import DEADLINE, Metrics, NoTraffic
from mmwagent.xray.traffic import TrafficSnapshot, snapshot_of
from tests.xray.helpers import FakeAgent, FakeResponse, Servers, log_lines, server, stats

ONE, TWO, DEFAULT = "127.0.0.1:1001", "127.0.0.1:1002", "127.0.0.1:38889"
EMPTY: dict[str, Any] = {"inbound": {}, "outbound": {}, "user": {}}


class MetricsCase(SynchronousTestCase):
    """Two servers, /etc/one.json and /etc/two.json, with metrics at ONE and TWO."""

    def setUp(self) -> None:
        """Let only the first be here, and nobody listen."""
        self.clock = Clock()
        self.agent = FakeAgent()
        self.servers = Servers((server("/etc/one.json", ONE),))
        self.metrics = Metrics(self.clock, self.agent, self.servers.look)

    def both(self) -> None:
        """Let both servers be here."""
        self.servers.found = (server("/etc/one.json", ONE), server("/etc/two.json", TWO))

    def start(self) -> Deferred[TrafficSnapshot]:
        """Ask for the traffic."""
        return Deferred.fromCoroutine(self.metrics.traffic())

    def traffic(self) -> Any:
        """Return the counters of now."""
        return self.successResultOf(self.start()).stats

    def user(self) -> tuple[int, int]:
        """Return what was counted for the user "a", (uplink, downlink)."""
        counters = self.traffic()["user"]["a"]
        return counters["uplink"], counters["downlink"]

    def refused(self) -> str:
        """Return why there is no traffic."""
        return str(self.failureResultOf(self.start(), NoTraffic).value)

    def gives(self, address: str, uplink: int, downlink: int = 0) -> None:
        """Let the Xray at `address` count these bytes for the user "a"."""
        self.agent.gives(address, stats({"a": (uplink, downlink)}))


class SingleServerTests(MetricsCase):
    """One Xray's counters are told as it gives them, or not at all."""

    def test_counters(self) -> None:
        """The stats object of /debug/vars is what is told."""
        given = stats({"a@b": (1, 2)}, {"vless": (3, 4)})
        self.agent.gives(ONE, given)
        self.assertEqual(self.traffic(), given)
        self.assertEqual(self.agent.asked, [ONE])

    def test_a_fall_passes(self) -> None:
        """After a restart the lower counters pass as they are: so the master notices."""
        self.gives(ONE, 100, 200)
        self.assertEqual(self.user(), (100, 200))
        self.gives(ONE, 1, 2)
        self.assertEqual(self.user(), (1, 2))

    def test_nothing_counted_yet(self) -> None:
        """Null, which Xray gives without a stats section, is told as empty."""
        self.agent.gives(ONE, None)
        self.assertEqual(self.traffic(), EMPTY)

    def test_useless_answers(self) -> None:
        """An answer without whole counters is a failure that says where and why, never zero."""
        for body, words in (
            (b"{}", "the answer holds no stats"),
            (b"[]", "the answer holds no stats"),
            (b'"stats"', "the answer holds no stats"),
            (b"null", "the answer holds no stats"),
            (b"", "Expecting value"),
            (b"<html>", "Expecting value"),
            (b'{"stats": {', "Expecting property name"),
            (b'{"stats": 7}', "stats is no object"),
            (b'{"stats": {"user": []}}', "stats.user is no object"),
            (b'{"stats": {"user": {"a": {"uplink": 1.5}}}}', "no whole number"),
            (b'{"stats": {"user": {"a": {"uplink": true}}}}', "no whole number"),
            (b'{"stats": {"user": {"a": {"uplink": NaN}}}}', "no whole number"),
            (b'{"stats": {"user": {"a": {"uplink": ' + b"9" * 5000 + b"}}}}", "limit"),
            (b'{"stats": ' + b"[" * 100_000, "recursion"),
            (b'{"stats": "\xff"}', "utf-8"),
        ):
            with self.subTest(body=body[:50]):
                self.agent.says(ONE, body)
                said = self.refused()
                self.assertIn("/etc/one.json", said)
                self.assertIn(f"http://{ONE}/debug/vars: ", said)
                self.assertIn(words, said)

    def test_other_statuses(self) -> None:
        """A status other than 200 is a failure, were the body right."""
        for code in (404, 500, 302, 204, 401):
            with self.subTest(code=code):
                self.agent.says(ONE, json.dumps({"stats": stats({"a": (1, 1)})}).encode(), code)
                self.assertIn(f"HTTP status {code}", self.refused())

    def test_nobody_listens(self) -> None:
        """A refused connection is a failure."""
        self.assertIn("refused", self.refused())
        self.assertEqual(self.agent.asked, [ONE])

    def test_failed_then_well(self) -> None:
        """A failure leaves no trace in what is counted later."""
        self.gives(ONE, 100)
        self.assertEqual(self.user(), (100, 0))
        self.agent.refuses(ONE)
        self.refused()
        self.gives(ONE, 150)
        self.assertEqual(self.user(), (150, 0))

    def test_too_long(self) -> None:
        """An answer beyond the limit is a failure; one at the limit is read."""
        body = b'{"stats": null}'
        self.patch(metrics, "MAX_BYTES", len(body))
        self.agent.says(ONE, body)
        self.assertEqual(self.traffic(), EMPTY)
        self.agent.says(ONE, body + b" ")
        self.assertIn("too long", self.refused())

    def test_strange_failures(self) -> None:
        """Whatever the HTTP client raises is a failure to get traffic, with or without words."""

        def broken() -> Any:
            raise ZeroDivisionError

        self.agent.does(ONE, broken)
        self.assertIn(f"http://{ONE}/debug/vars: ZeroDivisionError", self.refused())

    def test_found_anew_each_time(self) -> None:
        """The servers are looked for at each report, so one that moves is followed."""
        self.gives(ONE, 1)
        self.assertEqual(self.user(), (1, 0))
        self.servers.found = (server("/etc/one.json", TWO),)
        self.agent.asked.clear()
        self.gives(TWO, 5)
        self.traffic()
        self.assertEqual(self.agent.asked, [TWO])


class SlowServerTests(MetricsCase):
    """One that does not answer in time is given up."""

    def test_no_answer(self) -> None:
        """After the deadline a request without answer is given up, and said to be so."""
        given_up: list[Any] = []
        self.agent.does(ONE, lambda: Deferred(given_up.append))
        asked = self.start()
        self.clock.advance(DEADLINE - 0.1)
        self.assertNoResult(asked)
        self.clock.advance(0.1)
        said = str(self.failureResultOf(asked, NoTraffic).value)
        self.assertIn(f"http://{ONE}/debug/vars: no answer within 10 s", said)
        self.assertEqual(len(given_up), 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_half_an_answer(self) -> None:
        """An answer that stops in the middle is given up, and nothing of it is counted."""
        response = FakeResponse(b'{"stats": {"user": {"a"', unfinished=True)
        self.agent.does(ONE, lambda: succeed(response))
        asked = self.start()
        self.clock.advance(DEADLINE)
        said = str(self.failureResultOf(asked, NoTraffic).value)
        self.assertIn("no answer within 10 s", said)
        self.assertTrue(response.transport.disconnecting)

    def test_in_time(self) -> None:
        """An answer in time leaves no timer behind."""
        response = FakeResponse(b'{"stats": ', unfinished=True)
        self.agent.does(ONE, lambda: succeed(response))
        asked = self.start()
        self.clock.advance(DEADLINE - 0.1)
        response.protocol.dataReceived(b"null}")
        response.protocol.connectionLost(Failure(ResponseDone()))
        self.assertEqual(self.successResultOf(asked).stats, EMPTY)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_each_address_has_its_time(self) -> None:
        """The deadline is that of one address: the next server is asked after it."""
        self.both()
        self.agent.does(ONE, lambda: Deferred())
        self.gives(TWO, 7)
        asked = self.start()
        self.clock.advance(DEADLINE)
        self.assertEqual(self.successResultOf(asked), snapshot_of(stats({"a": (7, 0)})))

    def test_cancelled(self) -> None:
        """Who gives up the report ends it: no other address is asked, and the next one works."""
        self.both()
        self.agent.does(ONE, lambda: Deferred())
        asked = self.start()
        said = log_lines(asked.cancel)
        self.failureResultOf(asked, CancelledError)
        self.assertEqual(self.agent.asked, [ONE])
        self.assertEqual(said, [])
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.gives(ONE, 1)
        self.gives(TWO, 2)
        self.assertEqual(self.user(), (3, 0))


class OneAfterTheOtherTests(MetricsCase):
    """Two that ask at once, as the reports and the master's pull may."""

    def test_the_second_waits(self) -> None:
        """Who asks meanwhile waits, so the older of two answers is never counted last."""
        answers: list[Deferred[Any]] = []

        def answer() -> Deferred[Any]:
            answers.append(Deferred())
            return answers[-1]

        def respond(number: int, uplink: int) -> None:
            body = json.dumps({"stats": stats({"a": (uplink, 0)})}).encode()
            answers[number].callback(FakeResponse(body))

        self.agent.does(ONE, answer)
        first, second = self.start(), self.start()
        self.assertEqual(len(answers), 1)
        respond(0, 10)
        self.assertEqual(self.successResultOf(first), snapshot_of(stats({"a": (10, 0)})))
        self.assertNoResult(second)
        respond(1, 20)
        self.assertEqual(self.successResultOf(second), snapshot_of(stats({"a": (20, 0)})))

    def test_a_failure_lets_the_next_on(self) -> None:
        """A failure of the first does not keep the second waiting, nor does giving it up."""
        for end in (lambda asked: asked.cancel(), lambda _: self.clock.advance(DEADLINE)):
            self.agent.does(ONE, lambda: Deferred())
            first, second = self.start(), self.start()
            self.gives(ONE, 3)
            end(first)
            self.failureResultOf(first)
            self.assertEqual(self.successResultOf(second), snapshot_of(stats({"a": (3, 0)})))


class SeveralServersTests(MetricsCase):
    """Several Xray servers are added up, each counted once."""

    def setUp(self) -> None:
        """Let both be here and count."""
        super().setUp()
        self.both()
        self.gives(ONE, 100, 10)
        self.gives(TWO, 1000, 20)

    def test_sum(self) -> None:
        """What both counted for one user is added up."""
        self.assertEqual(self.user(), (1100, 30))

    def test_one_endpoint_counts_once(self) -> None:
        """Two configurations with the same address, however it is written, are one Xray."""
        self.servers.found = (
            server("/etc/one.json", ONE),
            server("/etc/copy.json", "localhost:1001"),
            server("/etc/more.json", ":1001"),
        )
        self.assertEqual(self.user(), (100, 10))
        self.assertEqual(self.agent.asked, [ONE])

    def test_a_deaf_endpoint_is_asked_once(self) -> None:
        """One address that fails is not asked again for another configuration."""
        self.agent.refuses(ONE)
        self.servers.found = (server("/etc/one.json", ONE), server("/etc/copy.json", ONE))
        said = self.refused()
        self.assertIn("/etc/one.json", said)
        self.assertIn("/etc/copy.json", said)
        self.assertEqual(self.agent.asked, [ONE])

    def test_a_failing_one_keeps_its_count(self) -> None:
        """One that fails stays in the sum with its last count: no zero, and no fall."""
        self.assertEqual(self.user(), (1100, 30))
        for fails in (
            lambda: self.agent.refuses(TWO),
            lambda: self.agent.says(TWO, b"oops", 500),
            lambda: self.agent.says(TWO, b'{"stats": {"user": {"a": {"uplink": -1}}}}'),
        ):
            fails()
            self.assertEqual(self.user(), (1100, 30))
        self.gives(ONE, 150, 10)
        self.assertEqual(self.user(), (1150, 30))
        self.gives(TWO, 1001, 20)
        self.assertEqual(self.user(), (1151, 30))

    def test_both_fail(self) -> None:
        """Where none answers there is no report, though the last counts are known."""
        self.user()
        self.agent.refuses(ONE)
        self.agent.refuses(TWO)
        said = self.refused()
        self.assertIn(f"/etc/one.json gives no traffic: http://{ONE}", said)
        self.assertIn(f"/etc/two.json gives no traffic: http://{TWO}", said)

    def test_a_restart_of_one(self) -> None:
        """One that begins from zero does not make the sum fall."""
        self.assertEqual(self.user(), (1100, 30))
        self.gives(TWO, 5, 0)
        self.assertEqual(self.user(), (1105, 30))
        self.gives(TWO, 7, 1)
        self.gives(ONE, 0, 0)
        self.assertEqual(self.user(), (1107, 31))

    def test_a_restart_as_the_other_comes(self) -> None:
        """One that begins from zero just when the other is first heard falls into no gap."""
        self.agent.refuses(TWO)
        self.assertEqual(self.user(), (100, 10))
        self.gives(ONE, 5, 1)
        self.gives(TWO, 200, 2)
        self.assertEqual(self.user(), (305, 13))

    def test_one_that_is_gone(self) -> None:
        """The count of one that is removed stays, for the sum must not fall."""
        self.assertEqual(self.user(), (1100, 30))
        self.servers.found = self.servers.found[:1]
        self.assertEqual(self.user(), (1100, 30))


class CandidateTests(MetricsCase):
    """Where several addresses come into question they are tried in order."""

    def setUp(self) -> None:
        """Let the server have `api.listen` but no metrics address."""
        super().setUp()
        self.servers.found = (XrayServer("/etc/one.json", {"api": {"listen": ONE}}),)

    def test_the_first_that_answers(self) -> None:
        """The first address that gives counters is taken, and no other is asked."""
        self.gives(ONE, 1)
        self.gives(DEFAULT, 2)
        self.assertEqual(self.user(), (1, 0))
        self.assertEqual(self.agent.asked, [ONE])

    def test_the_next_is_taken(self) -> None:
        """Where the first gives none, as a gRPC port does, the next is taken; nothing is said."""
        self.agent.says(ONE, b"\0\0\x06\x04", 400)
        self.gives(DEFAULT, 2)
        said = log_lines(lambda: self.assertEqual(self.user(), (2, 0)))
        self.assertEqual(self.agent.asked, [ONE, DEFAULT])
        self.assertEqual(said, [])

    def test_none_answers(self) -> None:
        """Where all fail the reason names each."""
        self.agent.says(ONE, b"", 404)
        said = self.refused()
        self.assertIn(f"http://{ONE}/debug/vars: HTTP status 404", said)
        self.assertIn(f"http://{DEFAULT}/debug/vars: Connection was refused", said)


class NoConfigurationTests(MetricsCase):
    """Where no Xray configuration is known."""

    def setUp(self) -> None:
        """Take the servers away."""
        super().setUp()
        self.servers.found = ()

    def test_no_xray(self) -> None:
        """Without any Xray the counters are empty, which is true, and nothing is said."""
        said = log_lines(lambda: self.assertEqual(self.traffic(), EMPTY))
        self.assertEqual(said, [])

    def test_the_default_address(self) -> None:
        """An Xray that runs from an unknown file is found at the README's address."""
        self.traffic()
        self.gives(DEFAULT, 5)
        said = log_lines(lambda: self.assertEqual(self.user(), (5, 0)))
        self.assertEqual(self.agent.asked, [DEFAULT, DEFAULT])
        self.assertEqual(said, [])

    def test_it_falls_silent(self) -> None:
        """When it answers no longer its last count is told, never zero."""
        self.gives(DEFAULT, 5)
        self.assertEqual(self.user(), (5, 0))
        self.agent.refuses(DEFAULT)
        self.assertEqual(self.user(), (5, 0))

    def test_its_file_is_found(self) -> None:
        """When its configuration is known later it is the same Xray, counted once."""
        self.gives(DEFAULT, 5)
        self.assertEqual(self.user(), (5, 0))
        self.servers.found = (server("/etc/one.json"),)
        self.gives(DEFAULT, 6)
        self.assertEqual(self.user(), (6, 0))


class LogTests(MetricsCase):
    """Each change of state is said once."""

    def said(self) -> list[tuple[str, str]]:
        """Return what one report logs, whether it succeeds or not."""
        return log_lines(lambda: self.start().addErrback(lambda why: why.trap(NoTraffic)))

    def test_once_per_change(self) -> None:
        """A server that falls silent is said once, with the reason, and once when it is back."""
        self.gives(ONE, 1)
        self.assertEqual(self.said(), [])
        self.agent.refuses(ONE)
        [(level, text)] = self.said()
        self.assertEqual(level, "warn")
        for word in ("/etc/one.json", f"http://{ONE}/debug/vars", "refused"):
            self.assertIn(word, text)
        self.assertEqual(self.said() + self.said(), [])
        self.gives(ONE, 2)
        self.assertEqual(
            self.said(), [("info", "the Xray of /etc/one.json gives its traffic again")]
        )
        self.assertEqual(self.said(), [])
        self.agent.refuses(ONE)
        self.assertEqual(len(self.said()), 1)

    def test_each_server_of_its_own(self) -> None:
        """Of two servers each is said by itself."""
        self.both()
        self.gives(ONE, 1)
        [(_, text)] = self.said()
        self.assertIn("/etc/two.json", text)
        self.agent.refuses(ONE)
        [(_, text)] = self.said()
        self.assertIn("/etc/one.json", text)
        self.gives(TWO, 1)
        [(_, text)] = self.said()
        self.assertEqual(text, "the Xray of /etc/two.json gives its traffic again")


class OneXray(Resource):
    """Answers as Xray does, or not at all."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.silent = False
        self.code = 200
        self.paths: list[bytes] = []

    def render_GET(self, request: Request) -> Any:
        """Answer."""
        self.paths.append(request.path)
        request.setResponseCode(self.code)
        return NOT_DONE_YET if self.silent else b'{"stats": {"user": {"a": {"uplink": 1}}}}'


class RealClientTests(SynchronousTestCase):
    """The same over Twisted's own HTTP client, in memory."""

    def setUp(self) -> None:
        """Join the client to one Xray."""
        self.clock = Clock()
        self.xray = OneXray()
        site = Site(self.xray, reactor=self.clock)
        self.addCleanup(site.stopFactory)
        self.network = MemoryNetwork(self.clock, site)
        servers = Servers((XrayServer("/etc/one.json", {"api": {"listen": ONE}}),))
        self.metrics = Metrics(self.clock, self.network.agent(), servers.look)

    def start(self) -> Deferred[TrafficSnapshot]:
        """Ask, and let the network run."""
        asked = Deferred.fromCoroutine(self.metrics.traffic())
        self.network.flush()
        return asked

    def test_one_connection_for_all(self) -> None:
        """Reports use one connection after the other has ended well, or in an HTTP error."""
        for code in (200, 500, 200):
            self.xray.code = code
            asked = self.start()
            if code == 200:
                self.assertEqual(self.successResultOf(asked), snapshot_of(stats({"a": (1, 0)})))
            else:
                self.failureResultOf(asked, NoTraffic)
        self.assertEqual(set(self.xray.paths), {b"/debug/vars"})
        self.assertEqual(len(self.xray.paths), 4, "the second failed at both of its addresses")
        self.assertEqual(self.network.attempts, 2, "one for each of the two addresses")

    def test_no_answer(self) -> None:
        """A request without answer ends at the deadline of each address, in plain words."""
        self.xray.silent = True
        asked = self.start()
        self.network.advance(DEADLINE - 1)
        self.assertNoResult(asked)
        self.network.advance(DEADLINE + 1)
        said = str(self.failureResultOf(asked, NoTraffic).value)
        for address in (ONE, DEFAULT):
            self.assertIn(f"http://{address}/debug/vars: no answer within 10 s", said)
        self.assertEqual(self.network.connections, [])

    def test_no_connection(self) -> None:
        """A connection that is never made ends at the deadline too."""
        self.network.deaf = True
        asked = self.start()
        self.network.advance(2 * DEADLINE)
        said = str(self.failureResultOf(asked, NoTraffic).value)
        self.assertIn("no answer within 10 s", said)

    def test_cancelled(self) -> None:
        """Given up before or after the connection is made, no further address is asked."""
        for deaf in (True, False):
            self.network.deaf, self.xray.silent = deaf, True
            self.network.attempts = 0
            asked = self.start()
            asked.cancel()
            self.network.flush()
            self.failureResultOf(asked, CancelledError)
            self.assertEqual(self.network.attempts, 1)
            self.assertEqual(self.network.connections, [])
