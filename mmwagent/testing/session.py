"""
One WebSocket conversation, seen from the master: authentication, messages, deadlines.

No WebSocket library here: a `Line` carries text, and the session decides.
Source: README "WebSocket 交互协议"; deadlines and answers are the real master's.
"""

from __future__ import annotations

import json
from typing import Any, Protocol

from twisted.internet.interfaces import IDelayedCall

from mmwagent.testing import wire
from mmwagent.testing.faults import (
    AUTH_FAULTS,
    DelayAnswers,
    DelayAuth,
    DropSession,
    RefuseAuth,
    SilentAuth,
    StopReading,
)
from mmwagent.testing.intake import Intake
from mmwagent.testing.panel import Panel
from mmwagent.testing.records import WEBSOCKET, AgentRecord, Connection, Report
from mmwagent.testing.wire import Problem, Refused

UNAUTHENTICATED_DEADLINE = 60.0
MESSAGE_DEADLINE = 300.0
PONG_DEADLINE = 60.0


class Line(Protocol):
    """The socket under a session."""

    def send_text(self, text: str) -> None:
        """Send one text frame."""

    def send_ping(self, payload: bytes) -> None:
        """Send a protocol ping."""

    def cut(self) -> None:
        """End the TCP connection, with no close frame."""

    def stop_reading(self) -> None:
        """Read nothing more."""


class Session:
    """A connection after its upgrade. `half_open` is set once a fault made it deaf."""

    def __init__(self, panel: Panel, intake: Intake, line: Line, ip_address: str) -> None:
        self._panel = panel
        self._intake = intake
        self._line = line
        self._clock = panel.clock
        self.ip_address = ip_address
        self.token = ""
        self.record: AgentRecord | None = None
        self.connection: Connection | None = None
        self.half_open = False
        self.open = False
        self.last_heartbeat = 0.0
        self._heartbeat_seen = False
        self._messages = 0
        self._drop_fault: DropSession | None = None
        self._deaf_fault: StopReading | None = None
        self._pings: set[bytes] = set()
        self._deadline: IDelayedCall | None = None
        self._later: set[IDelayedCall] = set()
        self._opened_at = 0.0

    # What the socket reports

    def opened(self) -> None:
        """The upgrade is done: a minute to authenticate."""
        self.open = True
        self._opened_at = self._clock.seconds()
        strangers = self._panel.strangers
        strangers.add(strangers.handshakes, self._opened_at)
        self._extend(UNAUTHENTICATED_DEADLINE)
        self._panel.event(strangers, "handshake", self.ip_address)

    def received(self, data: bytes) -> None:
        """Take one message, text or binary."""
        if not self.open or self.half_open:
            return
        try:
            message = wire.mapping(wire.load(data), "the message")
            type = wire.text(message.get("type"), "type")
        except Refused as refusal:
            self._panel.breach(self._whose(), refusal.problem)
        else:
            self._message(type, message)
        self._after_message()

    def ponged(self, payload: bytes) -> None:
        """A pong sets the deadline to a minute, which for an agent is shorter than it had."""
        if not self.open or self.half_open:
            return
        if payload in self._pings:
            self._pings.discard(payload)
        else:
            self._panel.breach(self._whose(), Problem("pong", "a pong nobody asked for"))
        self._extend(PONG_DEADLINE)

    def closed(self, why: str) -> None:
        """The connection is gone."""
        if not self.open:
            return
        self.open = False
        for call in (*self._later, *([self._deadline] if self._deadline else [])):
            if call.active():
                call.cancel()
        self._later.clear()
        self._panel.detach(self)
        if self.connection is not None:
            self.connection.closed_at = self._clock.seconds()
            self.connection.closed = why
        self._panel.event(self._whose(), "closed", why)

    # What the master does

    def drop(self, why: str) -> None:
        """Cut the connection, with no close frame."""
        if self.open:
            self.closed(why)
            self._line.cut()

    def tell(self, type: str, payload: object) -> None:
        """Send a message of the master's own accord."""
        self._line.send_text(json.dumps({"type": type, "payload": payload}))

    def say(self, text: str) -> None:
        """Send any text, to try the agent with what no master sends."""
        self._line.send_text(text)

    def ping(self, payload: bytes) -> None:
        """Send a protocol ping, as newer masters do; its pong is no breach."""
        self._pings.add(payload)
        self._line.send_ping(payload)

    def stop_reading(self) -> None:
        """Leave the connection half open."""
        self.half_open = True
        self._line.stop_reading()

    # Messages

    def _message(self, type: str, message: Any) -> None:
        if type == "auth":
            self._auth(message.get("payload"))
        elif type == "ping":
            self._extend(MESSAGE_DEADLINE)
            self._answer({"type": "pong"})
        elif type not in self._intake.frame_types:
            self._panel.breach(self._whose(), Problem("unknown-type", f"a message {type!r}"))
        elif self.record is None:
            self._panel.breach(self._whose(), Problem("before-auth", f"{type} before auth"))
            self._auth_result(False, "Authentication required")
        elif type == "heartbeat":
            self._heartbeat(self.record, message.get("payload"))
        else:
            if type in ("traffic", "scan_result") and not self._heartbeat_seen:
                problem = Problem("order", f"{type} before the first heartbeat of the session")
                self._panel.breach(self.record, problem)
            if self._intake.frame(self.record, message):
                self._extend(MESSAGE_DEADLINE)

    def _heartbeat(self, record: AgentRecord, payload: object) -> None:
        self._heartbeat_seen = True
        self.last_heartbeat = self._clock.seconds()
        self._extend(MESSAGE_DEADLINE)
        self._intake.frame_heartbeat(record, payload, self.ip_address)
        server_time = int(self._panel.now().timestamp())
        self._answer({"type": "heartbeat_ack", "payload": {"server_time": server_time}})

    def _after_message(self) -> None:
        """Apply what is scripted for this session after so many messages since auth."""
        if self.record is None or not self.open:
            return
        drop, deaf = self._drop_fault, self._deaf_fault
        if drop is not None and drop.messages is not None and self._messages >= drop.messages:
            self.drop("scripted: dropped")
        elif deaf is not None and self._messages >= deaf.messages:
            self.stop_reading()
        self._messages += 1

    # Authentication

    def _auth(self, payload: object) -> None:
        at = self._clock.seconds()
        try:
            token = wire.text(wire.mapping(payload, "auth").get("token"), "token").strip()
        except Refused as refusal:
            self._attempt(self._panel.strangers, payload, at, False)
            self._panel.breach(self._whose(), refusal.problem)
            self._auth_result(False, "Invalid auth payload")
            return
        if self.record is not None:
            self._panel.breach(self.record, Problem("re-auth", "auth on an authenticated socket"))
            self.drop("authenticated twice")
            return
        fault = self._panel.faults.take(AUTH_FAULTS, token)
        if isinstance(fault, DelayAuth):
            self._in(fault.seconds, lambda: self._judge_late(token, payload, at))
        elif isinstance(fault, (SilentAuth, RefuseAuth)):
            self._attempt(self._panel.find(token), payload, at, False)
            if isinstance(fault, RefuseAuth):
                self._auth_result(False, fault.message)
        else:
            self._judge(token, payload, at)

    def _judge(self, token: str, payload: object, at: float) -> None:
        record = self._panel.find(token)
        if record is None or self.record is not None:
            self._attempt(record, payload, at, False)
            self._auth_result(False, "Invalid token" if token else "Token required")
            return
        self.record, self.token = record, token
        self.connection = Connection(self.ip_address, self._opened_at, self._clock.seconds())
        self._panel.attach(self, record)
        self.last_heartbeat = record.last_seen = self._clock.seconds()
        record.ip_address = self.ip_address
        record.add(record.connections, self.connection)
        record.add(record.handshakes, self._opened_at)
        self._extend(MESSAGE_DEADLINE)
        self._auth_result(True, "Authenticated")
        self._attempt(record, payload, at, True)
        self._panel.event(record, "connected", self.ip_address)
        self._script()

    def _judge_late(self, token: str, payload: object, at: float) -> None:
        self._judge(token, payload, at)
        self._after_message()

    def _attempt(
        self, record: AgentRecord | None, payload: object, at: float, accepted: bool
    ) -> None:
        record = record or self._panel.strangers
        record.add(record.auth_attempts, at)
        self._panel.note(record, Report(WEBSOCKET, "auth", payload, at, accepted))

    def _script(self) -> None:
        """Take the faults that are scripted for a session from its authentication on."""
        self._drop_fault = self._panel.faults.take((DropSession,), self.token)
        self._deaf_fault = self._panel.faults.take((StopReading,), self.token)
        fault = self._drop_fault
        if fault is not None and fault.seconds is not None:
            self._in(fault.seconds, lambda: self.drop("scripted: dropped"))

    # Small change

    def _auth_result(self, success: bool, message: str) -> None:
        payload = {"success": success, "message": message}
        self._answer({"type": "auth_result", "payload": payload})

    def _answer(self, message: dict[str, Any]) -> None:
        fault = self._panel.faults.take((DelayAnswers,), self.token or None)
        text = json.dumps(message)
        if fault is None:
            self._line.send_text(text)
        else:
            self._in(fault.seconds, lambda: self._line.send_text(text))

    def _in(self, seconds: float, action: Any) -> None:
        def run() -> None:
            self._later.discard(call)
            action()

        call = self._clock.callLater(seconds, run)
        self._later.add(call)

    def _extend(self, seconds: float) -> None:
        """Set the read deadline to so many seconds from now."""
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()
        self._deadline = self._clock.callLater(seconds, self._deadline_passed)

    def _deadline_passed(self) -> None:
        self.drop("read deadline passed")

    def _whose(self) -> AgentRecord:
        return self.record or self._panel.strangers
