"""One readable line for each thing an agent does, for a person who watches the stand-in master."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mmwagent.logs import logger
from mmwagent.testing.ledger import summed
from mmwagent.testing.records import AgentRecord, Event, Report, Violation
from mmwagent.testing.wire import KINDS, Stats

log = logger()

_NEWS_SHOWN = 3


def journal(record: AgentRecord, event: Report | Violation | Event) -> None:
    """Log an event: breaches of the rules as warnings, the rest at info."""
    if isinstance(event, Violation):
        log.warn(
            "{agent}: breaks the rule {rule}: {detail}",
            agent=record.name,
            rule=event.rule,
            detail=event.detail,
        )
    elif isinstance(event, Event):
        log.info(
            "{agent}: {what}: {detail}", agent=record.name, what=event.what, detail=event.detail
        )
    else:
        log.info(
            "{agent}: {type} by {door}{refused}{text}",
            agent=record.name,
            type=event.type,
            door=event.door,
            refused="" if event.accepted else ", refused",
            text=describe(record, event),
        )


def describe(record: AgentRecord, report: Report) -> str:
    """Return what a report says, in a few words; nothing where there are no words for it."""
    describer = _WORDS.get(report.type)
    if not report.accepted or describer is None:
        return ""
    return ": " + describer(record, report.payload)


def human(count: float) -> str:
    """Return a number of bytes as people read it."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def _speed(record: AgentRecord, payload: Any) -> str:
    if record.speed is None:
        return "none"
    return f"up {human(record.speed.upload)}/s, down {human(record.speed.download)}/s"


def _traffic(record: AgentRecord, payload: Any) -> str:
    totals = [
        f"{kind} {_pair(record.traffic.totals, kind)}"
        for kind in KINDS
        if any(counter[0] == kind for counter in record.traffic.totals)
    ]
    return f"in all {'; '.join(totals) or 'nothing'}; new: {_news(record)}"


def _news(record: AgentRecord) -> str:
    added = record.traffic.latest.added
    names = {(kind, name) for (kind, name, _), count in added.items() if count}
    sums = {
        who: sum(count for key, count in added.items() if key[:2] == who) for who in sorted(names)
    }
    most = sorted(sums, key=lambda who: -sums[who])
    shown = [f"{kind} {name} {_pair(added, kind, name)}" for kind, name in most[:_NEWS_SHOWN]]
    if len(most) > _NEWS_SHOWN:
        shown.append(f"and {len(most) - _NEWS_SHOWN} more")
    return "; ".join(shown) or "nothing"


def _pair(stats: Stats, kind: str, name: str | None = None) -> str:
    up, down = (summed(stats, kind, way, name) for way in ("uplink", "downlink"))
    return f"up {human(up)} down {human(down)}"


def _heartbeat(record: AgentRecord, payload: Any) -> str:
    return f"port {record.listen_port}, up since {record.boot_time}, boot {record.boot_count}"


def _scan(record: AgentRecord, payload: Any) -> str:
    state = "runs" if payload.get("xray_running") else "does not run"
    inbounds = len(payload.get("inbounds") or ())
    return f"Xray {payload.get('xray_version') or ''} {state}, {inbounds} inbounds"


def _certificate(record: AgentRecord, payload: Any) -> str:
    outcome = "issued" if payload.get("success") else f"failed: {payload.get('error')}"
    return f"{payload.get('domain')} {outcome}"


def _latency(record: AgentRecord, payload: Any) -> str:
    results = payload.get("results") or ()
    answered = sum(1 for result in results if result.get("success"))
    return f"{answered} of {len(results)} domains answered"


_WORDS: dict[str, Callable[[AgentRecord, Any], str]] = {
    "speed": _speed,
    "traffic": _traffic,
    "heartbeat": _heartbeat,
    "scan_result": _scan,
    "cert_update": _certificate,
    "domain_latency_result": _latency,
}
