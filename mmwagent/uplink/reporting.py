"""
The machine of the reports: by which door they go.

              session_up                 fall_back
    idle ────────────────▶ websocket ────────────────▶ http ──┐ failed five times in a row,
      │                        ▲                        ▲     ▼ or at its first try
      │       fall_back        │ session_up     posted  └─── pull
      └────────▶ http          └── from every state

- idle: nothing is reported. No door was needed yet, or the master refuses this token (`rest`).
- websocket: a session is live and gets all reports.
- http: the WebSocket is down; the reports are posted, at the same cadence.
- pull: HTTP is down as well. A heartbeat is tried at its cadence; the master may pull the rest.
- pulled: pull as the configured mode. Heartbeats go on, for without them the master takes this
  server for offline and stops to pull; their success changes nothing.

One door at a time: what is being posted when a session comes up settles before its first report,
so that no older snapshot follows a newer one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from automat import MethodicalMachine
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from mmwagent.logs import logger
from mmwagent.uplink.backoff import Backoff
from mmwagent.uplink.failures import Kind, LinkFailure
from mmwagent.uplink.push import Push
from mmwagent.uplink.reporter import Cadence, Door, Reports, Stint
from mmwagent.uplink.websocket import Session

log = logger()

FAILURES_IN_A_ROW = 5  # README, HTTP: 连续 5 次失败后重试上层
SETTLE = 2.0  # seconds that a post under way may take before a session's first report


class Reporting:
    """
    Sends the reports by the door that is open.

    `hurry` is called when HTTP, having worked, fails: the layer above deserves another try.
    `heard` gets the master's answer to each post.
    `slow` paces the heartbeats of a token that is refused.
    """

    _machine = MethodicalMachine()

    def __init__(
        self,
        clock: IReactorTime,
        cadence: Cadence,
        reports: Reports,
        push: Push,
        slow: Backoff,
        hurry: Callable[[], None],
        heard: Callable[[Mapping[str, Any]], None],
    ) -> None:
        self._clock = clock
        self._cadence = cadence
        self._reports = reports
        self._push = push
        self._slow = slow
        self._hurry = hurry
        self._heard = heard
        self._stint: Stint | None = None
        self._knock: IDelayedCall | None = None
        self._posted_before = False
        self._failed_in_a_row = 0
        self.door = "connecting"

    # States.

    @_machine.state(initial=True)
    def idle(self) -> None:
        """No reports go out."""

    @_machine.state()
    def websocket(self) -> None:
        """A session gets the reports."""

    @_machine.state()
    def http(self) -> None:
        """The reports are posted."""

    @_machine.state()
    def pull(self) -> None:
        """Only heartbeats are tried, until one arrives."""

    @_machine.state()
    def pulled(self) -> None:
        """Only heartbeats are sent: the mode is pull."""

    # Inputs.

    @_machine.input()
    def session_up(self, session: Session) -> None:
        """A session is live."""

    @_machine.input()
    def fall_back(self) -> None:
        """No session is to be had for now."""

    @_machine.input()
    def rest(self) -> None:
        """No door can help, or the agent stops."""

    @_machine.input()
    def be_pulled(self) -> None:
        """The mode is pull."""

    @_machine.input()
    def _posted(self) -> None:
        """A post arrived."""

    @_machine.input()
    def _post_failed(self, failure: LinkFailure) -> None:
        """A post did not arrive."""

    @_machine.input()
    def _http_is_down(self, failure: LinkFailure) -> None:
        """Too many posts did not arrive."""

    # Outputs.

    @_machine.output()
    def _report_over_session(self, session: Session) -> None:
        self.door = "websocket"
        self._end()
        self._stint = stint = self._new_stint(_SessionDoor(session), scans=True)
        self._push.settled(SETTLE).addCallback(lambda _: stint.start())

    @_machine.output()
    def _report_over_http(self) -> None:
        self.door = "http"
        self._end()
        self._posted_before = False
        self._failed_in_a_row = 0
        log.info("reporting over HTTP")
        self._stint = self._new_stint(self, scans=False)
        self._stint.start()

    @_machine.output()
    def _only_knock(self, failure: LinkFailure) -> None:
        self.door = "pull"
        self._end()
        log.warn(
            "HTTP does not work either: {reason}; the master has to pull until it does",
            reason=failure.reason,
        )
        self._knock_after(self._pace(failure))
        # Last, for it may bring a session at once. A refused token is no reason to hurry.
        if self._posted_before and failure.kind is Kind.UNREACHABLE:
            self._hurry()

    @_machine.output()
    def _only_beat(self) -> None:
        self.door = "pull"
        self._beat()

    @_machine.output()
    def _report_nowhere(self) -> None:
        self.door = "connecting"
        self._end()

    @_machine.output()
    def _note_posted(self) -> None:
        self._posted_before = True
        self._failed_in_a_row = 0

    @_machine.output()
    def _note_failed(self, failure: LinkFailure) -> None:
        self._failed_in_a_row += 1
        refused = failure.kind is not Kind.UNREACHABLE
        if refused or not self._posted_before or self._failed_in_a_row >= FAILURES_IN_A_ROW:
            self._http_is_down(failure)

    @_machine.output()
    def _beat_on(self) -> None:
        self._slow.reset()
        self._knock_after(self._cadence.heartbeat)

    @_machine.output()
    def _knock_again(self, failure: LinkFailure) -> None:
        self._knock_after(self._pace(failure))

    idle.upon(session_up, enter=websocket, outputs=[_report_over_session])
    idle.upon(fall_back, enter=http, outputs=[_report_over_http])
    idle.upon(be_pulled, enter=pulled, outputs=[_only_beat])
    idle.upon(rest, enter=idle, outputs=[])
    idle.upon(_posted, enter=idle, outputs=[])
    idle.upon(_post_failed, enter=idle, outputs=[])

    websocket.upon(fall_back, enter=http, outputs=[_report_over_http])
    websocket.upon(rest, enter=idle, outputs=[_report_nowhere])
    websocket.upon(_posted, enter=websocket, outputs=[])
    websocket.upon(_post_failed, enter=websocket, outputs=[])

    http.upon(session_up, enter=websocket, outputs=[_report_over_session])
    http.upon(fall_back, enter=http, outputs=[])
    http.upon(rest, enter=idle, outputs=[_report_nowhere])
    http.upon(_posted, enter=http, outputs=[_note_posted])
    http.upon(_post_failed, enter=http, outputs=[_note_failed])
    http.upon(_http_is_down, enter=pull, outputs=[_only_knock])

    pull.upon(session_up, enter=websocket, outputs=[_report_over_session])
    pull.upon(fall_back, enter=pull, outputs=[])
    pull.upon(rest, enter=idle, outputs=[_report_nowhere])
    pull.upon(_posted, enter=http, outputs=[_report_over_http])
    pull.upon(_post_failed, enter=pull, outputs=[_knock_again])

    pulled.upon(rest, enter=idle, outputs=[_report_nowhere])
    pulled.upon(_posted, enter=pulled, outputs=[_beat_on])
    pulled.upon(_post_failed, enter=pulled, outputs=[_knock_again])

    async def report_traffic(self) -> bool:
        """Report Xray's counters now, beside the cadence; tell whether they went out."""
        stint = self._stint
        return stint is not None and await stint.traffic()

    # The HTTP door.

    def send(self, message: Any) -> Deferred[Any]:
        """Post `message` and take note of how that went."""
        posting = self._push.send(message)
        posting.addCallbacks(self._went_through, self._went_wrong)
        return posting

    def _went_through(self, answer: Any) -> Any:
        self._heard(answer)
        self._posted()
        return answer

    def _went_wrong(self, failure: Failure) -> Failure:
        if failure.check(LinkFailure):
            self._post_failed(failure.value)
        return failure

    # What the outputs share.

    def _new_stint(self, door: Door, scans: bool) -> Stint:
        return Stint(self._clock, self._cadence, self._reports, door, scans)

    def _end(self) -> None:
        if self._stint is not None:
            self._stint.stop()
            self._stint = None
        if self._knock is not None and self._knock.active():
            self._knock.cancel()

    def _pace(self, failure: LinkFailure) -> float:
        """Return the seconds until the next heartbeat is worth trying."""
        if failure.kind is Kind.UNREACHABLE:
            return self._cadence.heartbeat
        return min(self._slow.cap, max(self._slow.next(), failure.retry_after or 0))

    def _knock_after(self, seconds: float) -> None:
        self._knock = self._clock.callLater(seconds, self._beat)

    def _beat(self) -> None:
        Deferred.fromCoroutine(self._send_heartbeat())

    async def _send_heartbeat(self) -> None:
        try:
            await self.send(await self._reports.heartbeat())
        except LinkFailure:
            pass  # an input of the machine already
        except Exception as error:  # nobody foresaw it, and it must not be the last heartbeat
            log.failure("the heartbeat failed; it is tried again")
            self._post_failed(LinkFailure(f"no heartbeat could be made: {error}"))


class _SessionDoor:
    def __init__(self, session: Session) -> None:
        self._session = session

    def send(self, message: Any) -> Deferred[Any]:
        return maybeDeferred(self._session.send, message)
