"""
What each order of the master sets off.

Every order runs on its own, so that a slow one holds up no other; those that touch the same thing
run in the order in which they came. None is dropped, and none can end the session it came by.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Protocol

from attrs import define, field
from twisted.internet.defer import Deferred

from mmwagent.host.latency import Prober
from mmwagent.logs import logger
from mmwagent.uplink.failures import LinkFailure
from mmwagent.uplink.messages import (
    CertDeploy,
    CertRequest,
    CertUpdate,
    DomainLatencyProbe,
    DomainLatencyResult,
    Incoming,
    Outgoing,
    TokenUpdate,
)

log = logger()

Job = Callable[[], Awaitable[None]]


class Answers(Protocol):
    """Where an answer goes: the session by which the order came."""

    def send(self, message: Outgoing) -> None:
        """Send `message`. Fails with LinkFailure."""


class Certificates(Protocol):
    """What obtains and deploys certificates."""

    async def obtain(self, order: CertRequest) -> CertUpdate:
        """Obtain one, and tell what became of it."""

    async def deploy(self, order: CertDeploy) -> None:
        """Put one into place."""


class NoCertificates:
    """An honest answer as long as there is nothing that obtains or deploys certificates."""

    async def obtain(self, order: CertRequest) -> CertUpdate:
        """Say that it cannot be done."""
        error = "this version of mmw-agent cannot obtain certificates yet"
        log.warn("certificate for {domain} ordered: {error}", domain=order.domain, error=error)
        return CertUpdate(order.cert_id, order.domain, False, error)

    async def deploy(self, order: CertDeploy) -> None:
        """Say that it cannot be done; the master waits for no answer."""
        log.error(
            "a certificate for {domain} was sent and not deployed: this version of mmw-agent"
            " cannot do that yet",
            domain=order.domain,
        )


@define
class Orders:
    """
    Takes orders.

    `rotate` puts a new server token in force and keeps it.
    """

    rotate: Callable[[str], Awaitable[None]]
    prober: Prober
    certificates: Certificates
    _waiting: dict[str, deque[Job]] = field(factory=dict, init=False)

    def take(self, answers: Answers, message: Incoming) -> None:
        """Do what `message` says; its answer, if any, goes to `answers`."""
        match message:
            case TokenUpdate():
                self._in_turn("token", lambda: self._rotate(message))
            case DomainLatencyProbe():
                self._in_turn("", lambda: self._probe(answers, message))
            case CertRequest():
                self._in_turn(message.domain, lambda: self._obtain(answers, message))
            case CertDeploy():
                self._in_turn(message.domain, lambda: self.certificates.deploy(message))
            case _:
                log.debug("{message} is no order for this agent", message=message)

    def _in_turn(self, thing: str, job: Job) -> None:
        """Run `job` after all others for the same `thing`; for no thing, at once."""
        if not thing:
            Deferred.fromCoroutine(_survived(job))
        elif thing in self._waiting:
            self._waiting[thing].append(job)
        else:
            self._waiting[thing] = deque([job])
            Deferred.fromCoroutine(self._work_off(thing))

    async def _work_off(self, thing: str) -> None:
        # A loop, not a lock: that goes one level deeper for each job that ends at once.
        waiting = self._waiting[thing]
        while waiting:
            await _survived(waiting.popleft())
        del self._waiting[thing]

    async def _rotate(self, order: TokenUpdate) -> None:
        await self.rotate(order.server_token)

    async def _probe(self, answers: Answers, order: DomainLatencyProbe) -> None:
        found = await self.prober.probe(order.domains, order.timeout_ms)
        results = tuple(latency.fields() for latency in found)
        error = "" if results else "no domain was named"
        _answer(answers, DomainLatencyResult(order.request_id, bool(results), results, error))

    async def _obtain(self, answers: Answers, order: CertRequest) -> None:
        _answer(answers, await self.certificates.obtain(order))


def _answer(answers: Answers, message: Outgoing) -> None:
    try:
        answers.send(message)
    except LinkFailure as failure:
        log.warn(
            "the answer {type} cannot be given any more: {reason}",
            type=message.TYPE,
            reason=failure.reason,
        )


async def _survived(job: Job) -> None:
    try:
        await job()
    except Exception:
        log.failure("an order of the master failed")
