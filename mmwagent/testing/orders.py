"""
Orders of the master: the messages it sends, and the answers it waits for.

Source: README "Master → Agent" and "令牌轮换".
"""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime, tzinfo
from typing import Any

from twisted.internet.defer import Deferred

from mmwagent.testing.panel import LiveSession, Panel
from mmwagent.testing.records import AgentRecord

PROBE_GRACE = 5.0
"""Seconds the master waits for a probe's result beyond its timeout_ms, for the whole list."""


class NotConnected(LookupError):
    """The agent has no authenticated WebSocket session now."""


class Orders:
    """Sends orders over live sessions. `zone` is that of the master's own clock."""

    def __init__(self, panel: Panel, zone: tzinfo) -> None:
        self._panel = panel
        self._zone = zone
        self._numbers = itertools.count(1)

    def session(self, who: str) -> LiveSession:
        """Return the live session of an agent, by name or token. Raises NotConnected."""
        record = self._panel.look_up(who)
        session = self._panel.sessions.get(record.token)
        if session is None:
            raise NotConnected(f"{record.name} has no WebSocket session now")
        return session

    def send(self, who: str, type: str, payload: Mapping[str, Any]) -> None:
        """Send a message as it is. Raises NotConnected, UnknownAgent."""
        session = self.session(who)
        self._panel.event(self._panel.look_up(who), "order", type)
        session.tell(type, payload)

    def give(self, who: str, type: str, payload: Mapping[str, Any]) -> Mapping[str, Any]:
        """
        Send an order a person asked for, and return the payload that went out.

        A token_update really rotates the token; a probe without request_id gets one.
        """
        if type == "token_update":
            token = payload.get("server_token")
            if token is not None and not isinstance(token, str):
                raise ValueError("server_token must be a text")
            self.session(who)
            return {"server_token": self.rotate_token(who, token)}
        if type == "domain_latency_probe" and "request_id" not in payload:
            payload = {"request_id": self._request_id(), **payload}
        self.send(who, type, payload)
        return payload

    def rotate_token(self, who: str, token: str | None = None) -> str:
        """
        Replace an agent's token and return the new one. The old one is dead at once.

        A connected agent is told by token_update and its session goes on; one that is not
        connected is locked out, as with the real master.
        """
        record = self._panel.look_up(who)
        token = token or str(uuid.uuid4())
        self._panel.retoken(record, token)
        if token in self._panel.sessions:
            expires_at = nanoseconds(record.expires_at.astimezone(self._zone))
            payload = {"server_token": token, "expires_at": expires_at}
            self.send(token, "token_update", payload)
        return token

    def request_certificate(
        self,
        who: str,
        domain: str,
        *,
        cert_id: int = 1,
        email: str = "admin@example.com",
        provider: str = "letsencrypt",
        challenge_mode: str = "standalone",
        **optional: str,
    ) -> Deferred[dict[str, Any]]:
        """
        Order a certificate, and return a Deferred of the matching cert_update's payload.

        `optional` may hold webroot_path, dns_provider and dns_credentials (JSON as text). There
        is no time limit, as the master has none.
        """
        answer = self._answer(who, "cert_update", "cert_id", cert_id)
        payload = {
            "cert_id": cert_id,
            "domain": domain,
            "email": email,
            "provider": provider,
            "challenge_mode": challenge_mode,
            **optional,
        }
        return self._ask(who, "cert_request", payload, answer)

    def deploy_certificate(
        self,
        who: str,
        domain: str,
        cert_pem: str,
        key_pem: str,
        cert_path: str,
        key_path: str,
        reload: str = "both",
    ) -> None:
        """Order a certificate to be deployed; no answer is expected."""
        payload = {
            "domain": domain,
            "cert_pem": cert_pem,
            "key_pem": key_pem,
            "cert_path": cert_path,
            "key_path": key_path,
            "reload": reload,
        }
        self.send(who, "cert_deploy", payload)

    def probe_domains(
        self, who: str, domains: Sequence[str], timeout_ms: int = 2000
    ) -> Deferred[dict[str, Any]]:
        """
        Order a latency probe, and return a Deferred of the matching result's payload.

        It fails with TimeoutError after timeout_ms and five seconds, as the master gives up then.
        """
        request_id = self._request_id()
        answer = self._answer(who, "domain_latency_result", "request_id", request_id)
        answer.addTimeout(timeout_ms / 1000 + PROBE_GRACE, self._panel.clock)
        payload = {"request_id": request_id, "domains": list(domains), "timeout_ms": timeout_ms}
        return self._ask(who, "domain_latency_probe", payload, answer)

    def _ask(
        self, who: str, type: str, payload: dict[str, Any], answer: Deferred[dict[str, Any]]
    ) -> Deferred[dict[str, Any]]:
        try:
            self.send(who, type, payload)
        except LookupError:
            answer.addErrback(lambda _: {})
            answer.cancel()
            raise
        return answer

    def _answer(self, who: str, type: str, key: str, value: object) -> Deferred[dict[str, Any]]:
        """Return a Deferred of the next message of a type whose `key` has this value."""
        record = self._panel.look_up(who)

        def answers(event_of: AgentRecord) -> bool:
            report = event_of.latest(type) if event_of is record else None
            return report is not None and report.payload.get(key) == value

        waiting = self._panel.when(answers)

        def payload(_: AgentRecord) -> dict[str, Any]:
            report = record.latest(type)
            assert report is not None
            return dict(report.payload)

        return waiting.addCallback(payload)

    def _request_id(self) -> str:
        moment = int(self._panel.now().timestamp() * 1_000_000)
        return f"{next(self._numbers)}-{moment * 1000}"


def nanoseconds(moment: datetime) -> str:
    """Return a time as Go's RFC3339Nano writes it: nine digits, and the zone it is in."""
    offset = moment.strftime("%z")
    zone = "Z" if offset == "+0000" else f"{offset[:3]}:{offset[3:]}"
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond:06d}789{zone}"
