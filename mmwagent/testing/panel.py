"""What all doors of the stand-in master share: agents, sessions, and who waits for what."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime, ITransport

from mmwagent.testing.faults import FaultBoard
from mmwagent.testing.records import AgentRecord, Connection, Event, Report, Violation
from mmwagent.testing.wire import Problem

TOKEN_LIFE = timedelta(days=7)
SWEEP_INTERVAL = 60.0
OFFLINE_AFTER = 60.0
STALE_AFTER = 300.0

Observer = Callable[[AgentRecord, Report | Violation | Event], None]
Predicate = Callable[[AgentRecord], bool]


class UnknownAgent(LookupError):
    """No agent has this name or token."""


class LiveSession(Protocol):
    """What the panel needs of an authenticated WebSocket session."""

    token: str
    last_heartbeat: float
    half_open: bool
    connection: Connection | None

    def drop(self, why: str) -> None:
        """Cut the connection, with no close frame."""

    def tell(self, type: str, payload: object) -> None:
        """Send a message."""


class Panel:
    """
    Agents by token, live sessions by token, scripted faults, and those who wait.

    `strangers` is the record of whatever comes with no known token, `transports` every open
    connection, upgraded or not. `now` is the wall time the
    master tells agents; everything measured is by `clock`.
    """

    def __init__(
        self, clock: IReactorTime, now: Callable[[], datetime], keep: int | None = None
    ) -> None:
        self.clock = clock
        self.now = now
        self.keep = keep
        self.faults = FaultBoard()
        self.strangers = self._record("(unknown)", "")
        self.records: list[AgentRecord] = []
        self.sessions: dict[str, LiveSession] = {}
        self.transports: list[ITransport] = []
        self.observers: list[Observer] = []
        self._by_token: dict[str, AgentRecord] = {}
        self._waiting: list[tuple[Predicate, Deferred[AgentRecord]]] = []
        self._epoch = clock.seconds()
        self._sweep: IDelayedCall | None = None

    # Agents and their tokens

    def add(self, name: str, token: str, expires_at: datetime | None = None) -> AgentRecord:
        """Make an agent known. Names and tokens are unique."""
        if not token or token != token.strip():
            raise ValueError(f"the token of {name!r} is empty or has spaces around it")
        if token in self._by_token or any(name == record.name for record in self.records):
            raise ValueError(f"there is an agent {name!r} already, or one with its token")
        record = self._record(name, token)
        record.expires_at = expires_at or record.expires_at
        self.records.append(record)
        self._by_token[token] = record
        return record

    def find(self, token: str) -> AgentRecord | None:
        """Return the agent whose token this is now."""
        return self._by_token.get(token.strip())

    def look_up(self, who: str) -> AgentRecord:
        """Return the agent of this name or token, a former token too."""
        for record in self.records:
            if who in (record.name, record.token) or who in record.old_tokens:
                return record
        raise UnknownAgent(f"no agent has the name or token {who!r}")

    def retoken(self, record: AgentRecord, token: str) -> None:
        """Replace an agent's token, for seven days. The old one is dead at once."""
        if token in self._by_token:
            raise ValueError("this token is in use")
        old = record.token
        del self._by_token[old]
        self._by_token[token] = record
        record.old_tokens.append(old)
        record.token = token
        record.expires_at = self.now() + TOKEN_LIFE
        self.faults.moved(old, token)
        session = self.sessions.pop(old, None)
        if session is not None:
            session.token = token
            self.sessions[token] = session

    def status(self, record: AgentRecord) -> str:
        """
        Return "pending", "connected" or "offline".

        Each minute the master turns offline whoever it last heard of more than a minute before.
        """
        if record.last_seen is None:
            return "pending"
        minutes = math.floor((self.clock.seconds() - self._epoch) / SWEEP_INTERVAL)
        last_look = self._epoch + minutes * SWEEP_INTERVAL
        return "offline" if last_look - record.last_seen > OFFLINE_AFTER else "connected"

    # Sessions

    def attach(self, session: LiveSession, record: AgentRecord) -> None:
        """Make this the agent's one session; the one before is cut."""
        former = self.sessions.get(session.token)
        if former is not None:
            if not former.half_open:
                self.breach(record, Problem("two-sockets", "a second socket while one was open"))
            former.drop("replaced by a second connection")
        self.sessions[session.token] = session
        if self._sweep is None:
            self._plan_sweep()

    def detach(self, session: LiveSession) -> None:
        """Forget a session, if it is still its agent's."""
        if self.sessions.get(session.token) is session:
            del self.sessions[session.token]

    def _plan_sweep(self) -> None:
        """Look for stale sessions on the next full minute, as long as there are any."""
        self._sweep = None
        if not self.sessions:
            return
        elapsed = self.clock.seconds() - self._epoch
        wait = SWEEP_INTERVAL - elapsed % SWEEP_INTERVAL
        self._sweep = self.clock.callLater(wait, self._sweep_stale)

    def _sweep_stale(self) -> None:
        for session in list(self.sessions.values()):
            if self.clock.seconds() - session.last_heartbeat > STALE_AFTER:
                session.drop("stale: no heartbeat for five minutes")
        self._plan_sweep()

    def stop(self) -> None:
        """Cancel the sweep and whoever waits."""
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        for _, waiter in list(self._waiting):
            waiter.cancel()

    # What happens, and who waits for it

    def note(self, record: AgentRecord, event: Report | Event) -> None:
        """Write down a message or an event, and tell whoever waits for it."""
        if isinstance(event, Report):
            record.report(event)
        else:
            record.add(record.events, event)
        for observer in self.observers:
            observer(record, event)
        self._wake(record)

    def event(self, record: AgentRecord, what: str, detail: str = "") -> None:
        """Write down something that is no message."""
        self.note(record, Event(what, detail, self.clock.seconds()))

    def breach(self, record: AgentRecord, *problems: Problem) -> None:
        """Write down breaches of the rules of the wire."""
        for problem in problems:
            violation = record.breach(problem, self.clock.seconds())
            for observer in self.observers:
                observer(record, violation)
            self._wake(record)

    def when(self, predicate: Predicate) -> Deferred[AgentRecord]:
        """Return a Deferred of the record for which, at its next event, `predicate` is true."""

        def forget(cancelled: Deferred[AgentRecord]) -> None:
            self._waiting[:] = [entry for entry in self._waiting if entry[1] is not cancelled]

        waiter: Deferred[AgentRecord] = Deferred(forget)
        self._waiting.append((predicate, waiter))
        return waiter

    def _wake(self, record: AgentRecord) -> None:
        for entry in list(self._waiting):
            predicate, waiter = entry
            if entry in self._waiting and predicate(record):
                self._waiting.remove(entry)
                waiter.callback(record)

    def _record(self, name: str, token: str) -> AgentRecord:
        return AgentRecord(name, token, self.now() + TOKEN_LIFE, keep=self.keep)


def utc_now() -> datetime:
    """Return the wall time, aware."""
    return datetime.now(UTC)
