"""Reports over HTTP, against a resource in memory."""

from __future__ import annotations

import json
from typing import Any

from treq.client import HTTPClient
from treq.testing import RequestTraversalAgent
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http_headers import Headers
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from mmwagent.uplink.address import MasterAddress
from mmwagent.uplink.failures import Kind, LinkFailure
from mmwagent.uplink.push import MAX_ANSWER_BYTES, Push
from tests.uplink.helpers import HEARTBEAT, SPEED, STATS, TRAFFIC


class Master(Resource):
    """Notes each request and answers as the test says."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[tuple[str, str, Headers, Any]] = []
        self.status = 200
        self.headers: dict[str, str] = {}
        self.answer: bytes | None = b'{"success":true,"message":"Traffic data received"}'
        self.waiting: list[Any] = []

    def render(self, request: Any) -> Any:
        """Note the request."""
        self.requests.append(
            (
                request.method.decode(),
                request.path.decode(),
                request.requestHeaders,
                json.loads(request.content.read() or b"null"),
            )
        )
        request.setResponseCode(self.status)
        for name, value in self.headers.items():
            request.setHeader(name, value)
        if self.answer is None:
            self.waiting.append(request)
            return NOT_DONE_YET
        return self.answer


class PushTests(SynchronousTestCase):
    """Posting to https://master.test/panel."""

    def setUp(self) -> None:
        """Make a master in memory."""
        self.clock = Clock()
        self.master = Master()
        self.agent = RequestTraversalAgent(self.master)
        self.token = "t0k"
        self.push = Push(
            self.clock,
            HTTPClient(self.agent),
            MasterAddress("https://master.test/panel"),
            lambda: self.token,
            "miaomiaowux/0.1",
        )

    def send(self, report: Any = SPEED) -> Deferred[Any]:
        """Post `report`, and let the bytes flow."""
        sent = self.push.send(report)
        self.agent.flush()
        return sent

    def failure(self, report: Any = SPEED) -> LinkFailure:
        """Return how posting `report` fails."""
        failure: LinkFailure = self.failureResultOf(self.send(report), LinkFailure).value
        return failure

    def test_paths_and_bodies(self) -> None:
        """Each report goes to its own path, below the master's own, as the HTTP form has it."""
        for report in (HEARTBEAT, TRAFFIC, SPEED):
            self.successResultOf(self.send(report))
        seen = [(method, path, body) for method, path, _, body in self.master.requests]
        self.assertEqual(
            seen,
            [
                ("POST", "/panel/api/remote/heartbeat", HEARTBEAT.body()),
                ("POST", "/panel/api/remote/traffic", {"stats": STATS}),
                (
                    "POST",
                    "/panel/api/remote/speed",
                    {"upload_speed": 10, "download_speed": 20},
                ),
            ],
        )

    def test_headers(self) -> None:
        """The three token headers, the User-Agent and the body's type are there, each once."""
        self.successResultOf(self.send())
        headers = self.master.requests[0][2]
        for name, value in (
            ("Host", "master.test"),
            ("Authorization", "Bearer t0k"),
            ("X-Remote-Token", "t0k"),
            ("MM-Remote-Token", "t0k"),
            ("User-Agent", "miaomiaowux/0.1"),
            ("Content-Type", "application/json"),
        ):
            self.assertEqual(headers.getRawHeaders(name), [value])

    def test_ipv6_literal(self) -> None:
        """A master by its IPv6 address gets that address in the Host header."""
        self.push.address = MasterAddress("http://[::1]:8080/panel")
        self.successResultOf(self.send())
        _, path, headers, _ = self.master.requests[0]
        self.assertEqual(path, "/panel/api/remote/speed")
        self.assertEqual(headers.getRawHeaders("Host"), ["[::1]:8080"])

    def test_token_of_the_moment(self) -> None:
        """A new token is used from the next report on."""
        self.successResultOf(self.send())
        self.token = "new"
        self.successResultOf(self.send())
        self.assertEqual(self.master.requests[1][2].getRawHeaders("X-Remote-Token"), ["new"])

    def test_answer(self) -> None:
        """The master's answer is given back."""
        self.master.answer = b'{"success":true,"token_expires_soon":true}'
        self.assertTrue(self.successResultOf(self.send(HEARTBEAT))["token_expires_soon"])

    def test_empty_answer(self) -> None:
        """An empty answer with status 200 is taken for a yes."""
        self.master.answer = b""
        self.assertEqual(self.successResultOf(self.send()), {})

    def test_refusals(self) -> None:
        """The status decides the kind of failure; the master's words are told."""
        for status, kind, answer, words in (
            (
                401,
                Kind.UNAUTHORISED,
                b'{"success":false,"error":"Invalid token"}',
                "Invalid token",
            ),
            (403, Kind.UNAUTHORISED, b'{"success":false,"message":"Forbidden"}', "Forbidden"),
            (429, Kind.THROTTLED, b"slow down", "429"),
            (500, Kind.UNREACHABLE, b"<html>", "500"),
            (404, Kind.UNREACHABLE, b"", "404"),
            (502, Kind.UNREACHABLE, b"[]", "502"),
        ):
            with self.subTest(status=status):
                self.master.status, self.master.answer = status, answer
                failure = self.failure()
                self.assertIs(failure.kind, kind)
                self.assertIn(words, failure.reason)
                self.assertNotIn("t0k", failure.reason)

    def test_retry_after(self) -> None:
        """A Retry-After in seconds is passed on; a date or nonsense is not."""
        self.master.status = 429
        for value, seconds in (
            ("120", 120),
            ("Wed, 21 Oct 2026 07:28:00 GMT", None),
            ("-5", None),
        ):
            self.master.headers = {"Retry-After": value}
            self.assertEqual(self.failure().retry_after, seconds)

    def test_redirect_refused(self) -> None:
        """A redirect is not followed, and the failure says where it leads."""
        self.master.status = 302
        self.master.headers = {"Location": "https://other.test/"}
        self.assertIn("https://other.test/", self.failure().reason)
        self.assertEqual(len(self.master.requests), 1)

    def test_not_the_master(self) -> None:
        """A page with status 200 is not the master's answer."""
        for answer in (b"<html>login</html>", b"[1]", b"[" * 20_000):
            self.master.answer = answer
            self.assertIn("not the master", self.failure().reason)

    def test_success_false(self) -> None:
        """Status 200 with success false, as of a master with a broken database, is a failure."""
        self.master.answer = b'{"success":false,"message":"database is locked"}'
        self.assertIn("database is locked", self.failure().reason)

    def test_too_long(self) -> None:
        """An answer without end is not read to its end."""
        self.master.answer = b" " * (MAX_ANSWER_BYTES + 1)
        self.assertIn("too long", self.failure().reason)

    def test_deadline(self) -> None:
        """A master that does not answer fails the post after 15 s."""
        self.master.answer = None
        sent = self.send()
        self.clock.advance(14.9)
        self.assertNoResult(sent)
        self.clock.advance(0.2)
        self.assertIn(
            "did not answer within 15 s", self.failureResultOf(sent, LinkFailure).value.reason
        )
        self.agent.flush()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_one_at_a_time(self) -> None:
        """A report waits until the one before it is answered: none overtakes another."""
        self.master.answer = None
        first, second = self.send(HEARTBEAT), self.send(TRAFFIC)
        self.assertEqual(len(self.master.requests), 1)
        self.master.answer = b"{}"
        request = self.master.waiting.pop()
        request.write(b"{}")
        request.finish()
        self.agent.flush()
        self.successResultOf(first)
        self.agent.flush()
        self.successResultOf(second)
        paths = [path.rpartition("/")[2] for _, path, _, _ in self.master.requests]
        self.assertEqual(paths, ["heartbeat", "traffic"])

    def test_cancelled_goes_on(self) -> None:
        """Cancelling gives up the waiting, not the request, which the master may have taken."""
        self.master.answer = None
        sent = self.send()
        sent.cancel()
        self.failureResultOf(sent)
        settled = self.push.settled(2)
        self.assertNoResult(settled)
        request = self.master.waiting.pop()
        request.write(b"{}")
        request.finish()
        self.agent.flush()
        self.successResultOf(settled)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_settled_at_once(self) -> None:
        """With nothing under way it is settled."""
        self.successResultOf(self.push.settled(2))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_settled_by_force(self) -> None:
        """What does not end in the given time is cut, queued ones as well."""
        self.master.answer = None
        first, second = self.send(), self.send()
        settled = self.push.settled(2)
        self.clock.advance(2)
        self.successResultOf(settled)
        for sent in (first, second):
            self.failureResultOf(sent, LinkFailure)
        self.assertEqual(self.clock.getDelayedCalls(), [])
