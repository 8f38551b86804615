"""Asks the master for a new token where its answers say that the present one runs out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from mmwagent.logs import logger
from mmwagent.uplink.failures import LinkFailure
from mmwagent.uplink.messages import MalformedMessage, checked_token
from mmwagent.uplink.push import Push

log = logger()

PAUSE = 600.0  # seconds between two attempts


@define
class TokenRefresh:
    """
    Refreshes the token through `push`, and has `rotate` put the new one in force.

    The master refuses it until a day before the end, and says `token_expires_soon` from then on.
    """

    clock: IReactorTime
    push: Push
    rotate: Callable[[str], Awaitable[None]]
    _not_before: float = field(default=0.0, init=False)

    def heard(self, answer: Mapping[str, Any]) -> None:
        """Take an answer of the master to a report."""
        if answer.get("token_expires_soon") is True and self.clock.seconds() >= self._not_before:
            self._not_before = self.clock.seconds() + PAUSE
            Deferred.fromCoroutine(self._refresh())

    async def _refresh(self) -> None:
        try:
            # Within the push: no report may go out between the old token's end and the new one.
            await self.push.exclusively("token/refresh", self._take)
        except (LinkFailure, MalformedMessage) as problem:
            log.warn(
                "the token runs out, and the master gave no new one: {problem}", problem=problem
            )
        except Exception:
            log.failure("the token runs out, and could not be refreshed")

    async def _take(self, answer: Mapping[str, Any]) -> None:
        await self.rotate(checked_token(answer.get("new_token"), "new_token"))
