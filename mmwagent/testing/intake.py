"""
What the master does with a message it was sent, whichever door it came by.

Source: README "消息类型" and "HTTP"; what is dropped and what is stored is the real master's way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mmwagent.testing import wire
from mmwagent.testing.panel import Panel
from mmwagent.testing.records import HTTP, WEBSOCKET, AgentRecord, Report
from mmwagent.testing.wire import Heartbeat, Problem, Refused, Seen, Stats


class Intake:
    """Takes reports in: stores what they say, and what rules they break."""

    def __init__(self, panel: Panel) -> None:
        self._panel = panel
        self._frames: dict[str, Callable[[AgentRecord, Any], Seen[Any]]] = {
            "traffic": self._traffic,
            "speed": self._speed_frame,
            "cert_update": lambda _, payload: wire.certificate(payload),
            "scan_result": lambda _, payload: wire.scan(payload),
            "domain_latency_result": lambda _, payload: wire.latency(payload),
        }

    @property
    def frame_types(self) -> frozenset[str]:
        """The types of WebSocket messages that need authentication."""
        return frozenset(self._frames) | {"heartbeat"}

    def frame(self, record: AgentRecord, message: Mapping[str, Any]) -> bool:
        """Take a WebSocket message other than a heartbeat. False: dropped for its payload."""
        try:
            if "payload" not in message:
                raise Refused("shape", f"{message['type']} has no payload")
            seen = self._frames[message["type"]](record, message["payload"])
        except Refused as refusal:
            self._panel.breach(record, refusal.problem)
            self._note(record, WEBSOCKET, message["type"], message.get("payload"), False)
            return False
        self._panel.breach(record, *seen.problems)
        self._note(record, WEBSOCKET, message["type"], message["payload"], True)
        return True

    def frame_heartbeat(self, record: AgentRecord, payload: object, ip_address: str) -> None:
        """Take a WebSocket heartbeat; none is ever refused."""
        self._beat(record, WEBSOCKET, wire.frame_heartbeat(payload), payload, ip_address)

    def body_heartbeat(
        self, record: AgentRecord, body: bytes, ip_address: str
    ) -> tuple[bool, bool]:
        """Take an HTTP heartbeat; none is refused. Return whether agent, Xray restarted."""
        return self._beat(record, HTTP, wire.body_heartbeat(body), readable(body), ip_address)

    def body_traffic(self, record: AgentRecord, body: bytes) -> bool:
        """Take an HTTP traffic report; false when it has no `stats`. Raises Refused."""
        if record.heartbeat_at is None:
            self._panel.breach(record, Problem("order", "traffic before any heartbeat"))
        seen = self._body(record, "traffic", body, lambda load: self._traffic(record, load))
        return seen.value is not None

    def body_speed(self, record: AgentRecord, body: bytes) -> None:
        """Take an HTTP speed report, which does not refresh the status. Raises Refused."""
        self._body(record, "speed", body, lambda load: self._speed(record, load))

    def untaken(self, record: AgentRecord, endpoint: str, body: bytes) -> None:
        """Write down an HTTP push the master did not take."""
        self._note(record, HTTP, endpoint, readable(body), False)

    def _body(
        self,
        record: AgentRecord,
        type: str,
        body: bytes,
        take: Callable[[object], Seen[Any]],
    ) -> Seen[Any]:
        try:
            payload = wire.load(body)
            seen = take(payload)
        except Refused as refusal:
            self._panel.breach(record, refusal.problem)
            self._note(record, HTTP, type, readable(body), False)
            raise
        self._panel.breach(record, *seen.problems)
        self._note(record, HTTP, type, payload, True)
        return seen

    def _traffic(self, record: AgentRecord, payload: object) -> Seen[Stats | None]:
        seen = wire.traffic(payload)
        if seen.value is None:
            return seen
        record.last_seen = self._panel.clock.seconds()
        before = record.traffic.newest
        entry = record.traffic.take(seen.value)
        # What this Xray gave before; a user is in its counters from the first bytes on.
        again = [counter for counter in entry.fallen if counter in before]
        same_xray = record.xray_boot_time is not None and (
            record.xray_boot_time == record.traffic_xray_boot
        )
        if again and same_xray:
            fallen = " ".join(again[0])
            problem = Problem("old-snapshot", f"{fallen} fell though Xray did not restart")
            seen.problems.append(problem)
        record.traffic_xray_boot = record.xray_boot_time
        return seen

    def _speed(self, record: AgentRecord, payload: object) -> Seen[wire.Speed]:
        seen = wire.speed(payload)
        record.speed = seen.value
        return seen

    def _speed_frame(self, record: AgentRecord, payload: object) -> Seen[wire.Speed]:
        seen = self._speed(record, payload)
        record.last_seen = self._panel.clock.seconds()
        return seen

    def _beat(
        self,
        record: AgentRecord,
        door: str,
        seen: Seen[Heartbeat],
        payload: object,
        ip_address: str,
    ) -> tuple[bool, bool]:
        restarted = record.beat(seen.value, door, self._panel.clock.seconds())
        record.ip_address = ip_address
        self._panel.breach(record, *seen.problems)
        self._note(record, door, "heartbeat", payload, True)
        return restarted

    def _note(
        self, record: AgentRecord, door: str, type: str, payload: object, accepted: bool
    ) -> None:
        at = self._panel.clock.seconds()
        self._panel.note(record, Report(door, type, payload, at, accepted))


def readable(body: bytes) -> Any:
    """Return a body's JSON value, or its text where it is none, for the record."""
    try:
        return wire.load(body)
    except Refused:
        return body.decode("utf-8", "replace")
