"""What the stand-in master writes down about an agent: plain values a test can look into."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from typing import Any

from attrs import define, field, frozen

from mmwagent.testing.ledger import TrafficLedger
from mmwagent.testing.wire import Heartbeat, Problem, Speed

WEBSOCKET = "websocket"
HTTP = "http"


@frozen
class Report:
    """
    A message as it came, over which door, and when by the clock.

    `accepted` is false for what the master did not take: refused, undecodable, or answered by a
    scripted fault.
    """

    door: str
    type: str
    payload: Any
    at: float
    accepted: bool = True


@frozen
class Violation:
    """A breach of the rules of the wire: a short rule to test for, what was seen, and when."""

    rule: str
    detail: str
    at: float


@frozen
class Event:
    """Something that is no message: "handshake", "auth", "connected", "closed", "order"."""

    what: str
    detail: str
    at: float


@define(eq=False)
class Connection:
    """One authenticated WebSocket session. `closed` says why it ended."""

    ip_address: str
    handshake_at: float
    authenticated_at: float
    closed_at: float | None = None
    closed: str | None = None


@define(eq=False)
class AgentRecord:
    """
    Everything the master knows of one agent.

    `boot_count` is 1 once a boot time is known and rises with each different one. `heartbeat` is
    the last of either form. Times are clock seconds, but for boot times and `expires_at`, which
    are aware. `keep` bounds the lists for a master that runs for days; None keeps all.
    """

    name: str
    token: str
    expires_at: datetime
    keep: int | None = None
    old_tokens: list[str] = field(factory=list)
    reports: list[Report] = field(factory=list)
    counts: Counter[tuple[str, str]] = field(factory=Counter)
    violations: list[Violation] = field(factory=list)
    events: list[Event] = field(factory=list)
    connections: list[Connection] = field(factory=list)
    handshakes: list[float] = field(factory=list)
    auth_attempts: list[float] = field(factory=list)
    frame_heartbeat: Heartbeat | None = None
    body_heartbeat: Heartbeat | None = None
    heartbeat: Heartbeat | None = None
    heartbeat_at: float | None = None
    last_seen: float | None = None
    ip_address: str = ""
    listen_port: int = 0
    boot_time: datetime | None = None
    boot_count: int = 0
    xray_boot_time: datetime | None = None
    xray_boot_count: int = 0
    traffic: TrafficLedger = field(factory=TrafficLedger)
    traffic_xray_boot: datetime | None = None
    speed: Speed | None = None

    def add(self, entries: list[Any], entry: object) -> None:
        """Append to one of the lists above, dropping its oldest beyond `keep`."""
        entries.append(entry)
        if self.keep is not None and len(entries) > self.keep:
            del entries[0]

    def report(self, report: Report) -> None:
        """Write down a message."""
        self.counts[report.door, report.type] += 1
        self.add(self.reports, report)

    def of(self, type: str, *, accepted: bool | None = None) -> list[Report]:
        """Return the messages of a type, in order; with `accepted`, only such."""
        return [
            report
            for report in self.reports
            if report.type == type and accepted in (None, report.accepted)
        ]

    def latest(self, type: str) -> Report | None:
        """Return the last message, when it is an accepted one of this type."""
        last = self.reports[-1] if self.reports else None
        return last if last and last.type == type and last.accepted else None

    def beat(self, heartbeat: Heartbeat, door: str, at: float) -> tuple[bool, bool]:
        """Store a heartbeat. Return whether it shows a new boot of the agent, and of Xray."""
        if door == HTTP:
            self.body_heartbeat = heartbeat
        else:
            self.frame_heartbeat = heartbeat
        self.heartbeat = heartbeat
        self.heartbeat_at = self.last_seen = at
        self.listen_port = heartbeat.listen_port
        was, xray_was = self.boot_time, self.xray_boot_time
        rebooted = heartbeat.boot_time is not None and heartbeat.boot_time != was
        xray_rebooted = heartbeat.xray_boot_time is not None
        xray_rebooted = xray_rebooted and heartbeat.xray_boot_time != xray_was
        self.boot_time, self.xray_boot_time = heartbeat.boot_time, heartbeat.xray_boot_time
        self.boot_count += rebooted
        self.xray_boot_count += xray_rebooted
        return rebooted and was is not None, xray_rebooted and xray_was is not None

    def breach(self, problem: Problem, at: float) -> Violation:
        """Write down a breach of the rules."""
        violation = Violation(problem.rule, problem.detail, at)
        self.add(self.violations, violation)
        return violation
