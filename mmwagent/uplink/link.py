"""
The machine of the connection: one WebSocket at a time, and when to try the next one.

               start                  opened
    stopped ───────────▶ dialling ────────────▶ live
                          ▲  ▲  │ failed          │ lost
             due or hurry │  │  ▼                 ▼
                          │  │ waiting ◀──────────┤
                          │  │   (refused, or asked to wait)
                      due │  └ barred ◀───────────┘
                          └────┘

- waiting: 5 s after the first failure, doubled up to 5 minutes, ±20 %; when HTTP fails as well,
  `hurry` cuts it short.
- barred: the master refuses the token, or says that we come too often. The next try is a minute
  away or more, and nothing cuts that short.

A dial is the session: no connection is made to see whether one could be made, and none while
another is open. The delays start from the base again only after a session has lived a while, for
one that is dropped as soon as it is open is no success.
"""

from __future__ import annotations

from collections.abc import Callable

from automat import MethodicalMachine
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from mmwagent.logs import logger
from mmwagent.uplink import failures
from mmwagent.uplink.backoff import Backoff
from mmwagent.uplink.failures import Kind, LinkFailure
from mmwagent.uplink.messages import Incoming
from mmwagent.uplink.reporting import Reporting
from mmwagent.uplink.websocket import Dialer, Session

log = logger()

STEADY = 60.0  # seconds a session has to live before it counts as a success
BARRED = 60.0  # the shortest wait after a refusal: newer masters count tries within a minute


class Link:
    """
    Keeps one WebSocket to the master.

    `patience` is the number of failures in a row after which the reports go another way: 1 in the
    mode auto, 5 in the mode websocket (README, WebSocket). Once a session was live they go the
    other way at once.
    """

    _machine = MethodicalMachine()

    def __init__(
        self,
        clock: IReactorTime,
        dialer: Dialer,
        token: Callable[[], str],
        receive: Callable[[Session, Incoming], None],
        reporting: Reporting,
        backoff: Backoff,
        slow: Backoff,
        patience: int,
    ) -> None:
        self._clock = clock
        self._dialer = dialer
        self._token = token
        self._receive = receive
        self._reporting = reporting
        self._backoff = backoff
        self._slow = slow
        self._patience = patience
        self._failed_in_a_row = 0
        self._said: str | None = None
        self._dialling: Deferred[Session] | None = None
        self._session: Session | None = None
        self._timer: IDelayedCall | None = None
        self._steady: IDelayedCall | None = None

    # States.

    @_machine.state(initial=True)
    def stopped(self) -> None:
        """Nothing is tried."""

    @_machine.state()
    def dialling(self) -> None:
        """A session is being made."""

    @_machine.state()
    def live(self) -> None:
        """A session is live."""

    @_machine.state()
    def waiting(self) -> None:
        """The next try is due later, or sooner if there is a reason."""

    @_machine.state()
    def barred(self) -> None:
        """The next try is due later, whatever happens."""

    # Inputs.

    @_machine.input()
    def start(self) -> None:
        """Keep a session from now on."""

    @_machine.input()
    def stop(self) -> None:
        """Keep none; what there is is closed."""

    @_machine.input()
    def hurry(self) -> None:
        """Another way failed as well, so do not wait."""

    @_machine.input()
    def _opened(self, session: Session) -> None:
        """The dial gave a session."""

    @_machine.input()
    def _failed(self, failure: LinkFailure) -> None:
        """A dial failed, or a session ended, and trying again soon may help."""

    @_machine.input()
    def _refused(self, failure: LinkFailure) -> None:
        """A dial failed, or a session ended, and trying again soon makes it worse."""

    @_machine.input()
    def _due(self) -> None:
        """The wait is over."""

    # Outputs.

    @_machine.output()
    def _dial(self) -> None:
        self._no_timer()
        self._dialling = self._dialer.dial(self._token(), self._received)
        self._dialling.addCallbacks(self._opened, self._ended)

    @_machine.output()
    def _use(self, session: Session) -> None:
        self._session = session
        self._failed_in_a_row = 0
        self._said = None
        log.info("connected to the master over WebSocket")
        self._steady = self._clock.callLater(STEADY, self._be_steady)
        session.closed.addCallback(self._closed)
        self._reporting.session_up(session)

    @_machine.output()
    def _lose(self, failure: LinkFailure) -> None:
        self._session = None
        if self._steady is not None and self._steady.active():
            self._steady.cancel()
        self._failed_in_a_row = self._patience  # the master knew us: the reports go on at once

    @_machine.output()
    def _wait(self, failure: LinkFailure) -> None:
        self._failed_in_a_row += 1
        self._try_in(self._backoff.next(), failure)
        if self._failed_in_a_row >= self._patience:
            self._reporting.fall_back()

    @_machine.output()
    def _keep_away(self, failure: LinkFailure) -> None:
        delay = min(self._slow.cap, max(self._slow.next(), failure.retry_after or 0))
        self._try_in(delay, failure)
        if failure.everywhere:
            self._reporting.rest()
        else:
            self._reporting.fall_back()

    @_machine.output()
    def _give_up(self) -> None:
        self._no_timer()
        if self._dialling is not None:
            self._dialling.cancel()
        if self._steady is not None and self._steady.active():
            self._steady.cancel()
        self._reporting.rest()
        if self._session is not None:
            self._session.close()

    @_machine.output()
    def _close(self, session: Session) -> None:
        session.close()

    stopped.upon(start, enter=dialling, outputs=[_dial])
    stopped.upon(stop, enter=stopped, outputs=[])
    stopped.upon(hurry, enter=stopped, outputs=[])
    stopped.upon(_opened, enter=stopped, outputs=[_close])
    stopped.upon(_failed, enter=stopped, outputs=[])
    stopped.upon(_refused, enter=stopped, outputs=[])

    dialling.upon(_opened, enter=live, outputs=[_use])
    dialling.upon(_failed, enter=waiting, outputs=[_wait])
    dialling.upon(_refused, enter=barred, outputs=[_keep_away])
    dialling.upon(hurry, enter=dialling, outputs=[])
    dialling.upon(stop, enter=stopped, outputs=[_give_up])

    live.upon(_failed, enter=waiting, outputs=[_lose, _wait])
    live.upon(_refused, enter=barred, outputs=[_lose, _keep_away])
    live.upon(hurry, enter=live, outputs=[])
    live.upon(stop, enter=stopped, outputs=[_give_up])

    waiting.upon(_due, enter=dialling, outputs=[_dial])
    waiting.upon(hurry, enter=dialling, outputs=[_dial])
    waiting.upon(stop, enter=stopped, outputs=[_give_up])

    barred.upon(_due, enter=dialling, outputs=[_dial])
    barred.upon(hurry, enter=barred, outputs=[])
    barred.upon(stop, enter=stopped, outputs=[_give_up])

    # What turns events into inputs, and what the outputs share.

    def ended(self) -> Deferred[None]:
        """Return a Deferred for the end of the session there is; at once where there is none."""
        if self._session is None:
            return succeed(None)
        over: Deferred[None] = Deferred()
        self._session.closed.addCallback(lambda _: over.callback(None))
        return over

    def _received(self, message: Incoming) -> None:
        if self._session is not None:
            self._receive(self._session, message)

    def _ended(self, failure: Failure) -> None:
        self._judge(failures.of(failure))

    def _closed(self, failure: LinkFailure) -> None:
        self._judge(failure)

    def _judge(self, failure: LinkFailure) -> None:
        if failure.kind is Kind.UNREACHABLE:
            self._failed(failure)
        else:
            self._refused(failure)

    def _be_steady(self) -> None:
        self._backoff.reset()
        self._slow.reset()

    def _try_in(self, delay: float, failure: LinkFailure) -> None:
        self._say(failure, delay)
        self._timer = self._clock.callLater(delay, self._due)

    def _no_timer(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    def _say(self, failure: LinkFailure, delay: float) -> None:
        """Say what is wrong, aloud only when it is not what was wrong before."""
        tell = log.debug if failure.reason == self._said else log.warn
        self._said = failure.reason
        tell(
            "no WebSocket: {reason}; next try in {delay:.0f} s, then at growing distances",
            reason=failure.reason,
            delay=delay,
        )
