"""A new server token: in force at once everywhere, and kept for the next start."""

from __future__ import annotations

from collections.abc import Callable

from attrs import define, field
from twisted.internet.defer import Deferred, DeferredLock

from mmwagent.credentials import Credentials
from mmwagent.logs import logger

log = logger()


@define
class Rotation:
    """`save` keeps a token in a thread and gives the path of the file it is in."""

    credentials: Credentials
    save: Callable[[str], Deferred[str]]
    _turn: DeferredLock = field(factory=DeferredLock, init=False)

    async def rotate(self, token: str) -> None:
        """
        Put `token` in force, then keep it.

        In that order: the old token is dead at the master already, and its next call brings the
        new one. Where it cannot be kept, the log says what that means.
        """
        if not self.credentials.rotate(token):
            return
        try:
            # In turn: the last token to come is the one that stays in the file.
            file = await self._turn.run(self.save, token)
        except OSError as error:
            log.error(
                "the master's new token is in force but could not be kept ({reason}): after a"
                " restart the master will refuse this agent until it is configured anew",
                reason=str(error),
            )
        else:
            log.info("the master's new token is in force and kept in {file}", file=file)
