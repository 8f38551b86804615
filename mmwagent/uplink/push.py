"""Reports over HTTP: POST /api/remote/{traffic,speed,heartbeat} (README, HTTP)."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from attrs import define, field
from treq.client import HTTPClient
from twisted.internet.defer import Deferred, DeferredLock, succeed
from twisted.internet.interfaces import IConsumer, IReactorTime
from twisted.python.failure import Failure
from twisted.web.http_headers import Headers
from twisted.web.iweb import IBodyProducer, IResponse
from zope.interface import implementer

from mmwagent.bodies import BodyTooLarge, read_body
from mmwagent.uplink import failures
from mmwagent.uplink.address import MasterAddress
from mmwagent.uplink.failures import LinkFailure
from mmwagent.uplink.messages import (
    Heartbeat,
    MalformedMessage,
    SpeedReport,
    Traffic,
    to_json,
)

DEADLINE = 15.0  # seconds for one report, connecting included
MAX_ANSWER_BYTES = 64 * 1024


@define
class Push:
    """
    Posts reports to the master, one at a time so that none overtakes another.

    `token` gives the token in force at that moment.
    """

    clock: IReactorTime
    client: HTTPClient
    address: MasterAddress
    token: Callable[[], str]
    user_agent: str
    _one_at_a_time: DeferredLock = field(factory=DeferredLock, init=False)
    _postings: set[Deferred[Mapping[str, Any]]] = field(factory=set, init=False)

    def send(self, report: Heartbeat | Traffic | SpeedReport) -> Deferred[Mapping[str, Any]]:
        """
        Post `report` and return the master's answer, a JSON object.

        Fails with LinkFailure. Cancelling gives up waiting, not the request: the master may have
        taken it already, and `settled` tells when that is over.
        """
        answered: Deferred[Mapping[str, Any]] = Deferred()
        posting: Deferred[Mapping[str, Any]] = self._one_at_a_time.run(self._post, report)
        self._postings.add(posting)
        posting.addBoth(self._done, posting)
        posting.addErrback(_as_link_failure)
        posting.addCallbacks(answered.callback, answered.errback)
        return answered

    def exclusively(
        self, name: str, take: Callable[[Mapping[str, Any]], Awaitable[None]]
    ) -> Deferred[None]:
        """
        Post to the endpoint `name` and have `take` deal with the answer before any other post.

        Fails with LinkFailure, or as `take` does.
        """

        async def whole() -> None:
            await take(await self._exchange(name, b""))

        def start() -> Deferred[None]:
            running = Deferred.fromCoroutine(whole())
            return running.addTimeout(DEADLINE, self.clock, onTimeoutCancel=_too_late)

        running: Deferred[None] = self._one_at_a_time.run(start)
        return running.addErrback(_as_link_failure, MalformedMessage)

    def settled(self, seconds: float) -> Deferred[None]:
        """Return a Deferred for the end of all posts so far; after `seconds` they are cut."""
        settled: Deferred[None] = self._one_at_a_time.run(lambda: None)
        cutting = self.clock.callLater(seconds, self.cut)
        settled.addBoth(lambda _: cutting.cancel() if cutting.active() else None)
        return settled

    def cut(self) -> None:
        """Give up all that is being posted or waits to be."""
        for posting in tuple(self._postings):
            posting.cancel()

    def _done(self, result: Any, posting: Deferred[Mapping[str, Any]]) -> Any:
        self._postings.discard(posting)
        return result

    def _post(self, report: Heartbeat | Traffic | SpeedReport) -> Deferred[Mapping[str, Any]]:
        posting = Deferred.fromCoroutine(self._exchange(report.TYPE, to_json(report.body())))
        return posting.addTimeout(DEADLINE, self.clock, onTimeoutCancel=_too_late)

    async def _exchange(self, name: str, body: bytes) -> Mapping[str, Any]:
        # A redirect is refused: followed, it would turn into a GET without the report.
        response = await self.client.post(
            self.address.report(name),
            data=_Whole(body),
            headers=self._headers(),
            allow_redirects=False,
            unbuffered=True,
        )
        # Always read to the end: only then is the connection kept for the next report.
        answer = await read_body(response, MAX_ANSWER_BYTES)
        if response.code != 200:
            raise _refused(response, answer)
        return _accepted(answer)

    def _headers(self) -> Headers:
        token = self.token()
        return Headers(
            {
                "Host": [self.address.authority],
                "User-Agent": [self.user_agent],
                "Content-Type": ["application/json"],
                # Which one the master reads differs from endpoint to endpoint.
                "Authorization": [f"Bearer {token}"],
                "MM-Remote-Token": [token],
                "X-Remote-Token": [token],
            }
        )


@implementer(IBodyProducer)
class _Whole:
    """
    A body written in one go.

    It is in memory already; Twisted's producer of files would cut it into pieces, one each turn
    of the global reactor.
    """

    def __init__(self, body: bytes) -> None:
        self.length = len(body)
        self._body = body

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        consumer.write(self._body)
        return succeed(None)

    def pauseProducing(self) -> None:
        pass

    def resumeProducing(self) -> None:
        pass

    def stopProducing(self) -> None:
        pass


def _too_late(result: object, seconds: float) -> Failure:
    return Failure(LinkFailure(f"the master did not answer within {seconds:.0f} s"))


def _as_link_failure(failure: Failure, *but: type[Exception]) -> Failure:
    """Return `failure` in the words of a LinkFailure, unless it is one of `but`."""
    if failure.check(*but):
        return failure
    if failure.check(BodyTooLarge):
        return Failure(LinkFailure("the master's answer is too long"))
    return Failure(failures.of(failure))


def _refused(response: IResponse, answer: bytes) -> LinkFailure:
    headers = response.headers

    def header(name: str) -> str | None:
        values = headers.getRawHeaders(name)
        return values[0] if values else None

    phrase = _reason_in(answer) or response.phrase.decode("ascii", "replace")
    return failures.of_status(response.code, phrase, header("location"), header("retry-after"))


def _accepted(answer: bytes) -> Mapping[str, Any]:
    value = _json_object(answer)
    if value is None:
        raise LinkFailure("what answered is not the master: its answer is no JSON object")
    if value.get("success") is False:
        raise LinkFailure(f"the master did not take the report: {_reason_in(answer)}")
    return value


def _reason_in(answer: bytes) -> str:
    """Return the master's own words in an answer of its, kept short, or an empty text."""
    value = _json_object(answer) or {}
    said = value.get("error") or value.get("message")
    return said[:200] if isinstance(said, str) else ""


def _json_object(answer: bytes) -> Mapping[str, Any] | None:
    try:
        value = json.loads(answer or b"{}")
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
