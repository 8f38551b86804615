"""Opens the port of the management API, and goes on trying where it is taken."""

from __future__ import annotations

from collections.abc import Callable

from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import (
    IDelayedCall,
    IListeningPort,
    IProtocolFactory,
    IReactorTime,
    IStreamServerEndpoint,
)
from twisted.python.failure import Failure

from mmwagent.logs import logger

log = logger()

RETRY = 10.0  # seconds


class Listening(Service):
    """
    Serves `site` at the first of `endpoints` that can be opened.

    A taken port is an error in the log and is tried again, for the reports do not depend on it.
    `where` names the place in the log.
    """

    def __init__(
        self,
        clock: IReactorTime,
        endpoints: Callable[[], list[IStreamServerEndpoint]],
        site: IProtocolFactory,
        where: str,
    ) -> None:
        self._clock = clock
        self._endpoints = endpoints
        self._site = site
        self._where = where
        self._port: IListeningPort | None = None
        self._retry: IDelayedCall | None = None
        self._said = False

    def startService(self) -> None:
        """Open the port."""
        super().startService()  # type: ignore[no-untyped-call]
        self._open()

    def stopService(self) -> Deferred[object] | None:
        """Close the port."""
        super().stopService()  # type: ignore[no-untyped-call]
        if self._retry is not None and self._retry.active():
            self._retry.cancel()
        port, self._port = self._port, None
        return None if port is None else maybeDeferred(port.stopListening)

    def _open(self) -> None:
        Deferred.fromCoroutine(self._listen()).addCallbacks(self._opened, self._failed)

    async def _listen(self) -> IListeningPort:
        *others, last = self._endpoints()
        for endpoint in others:
            try:
                return await endpoint.listen(self._site)
            except Exception as problem:
                log.debug("{where}: {problem}", where=self._where, problem=str(problem))
        return await last.listen(self._site)

    def _opened(self, port: IListeningPort) -> None:
        if not self.running:
            port.stopListening()
            return
        self._port = port
        log.info("management API open at {where}", where=self._where)

    def _failed(self, failure: Failure) -> None:
        if not self.running:
            return
        if not self._said:
            self._said = True
            log.error(
                "the management API cannot be opened at {where}: {reason}; tried again every"
                " {seconds:.0f} s",
                where=self._where,
                reason=failure.getErrorMessage(),
                seconds=RETRY,
            )
        self._retry = self._clock.callLater(RETRY, self._open)
