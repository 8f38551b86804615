"""
What the master makes of an agent's payloads: decoded as strictly as its Go does, and no stricter.

Every reader returns the value the master would work with and the list of `Problem`s it saw on the
way, or raises `Refused` when the master would throw the whole payload away.
Source: README "WebSocket 交互协议" for the shapes; the strictness is that of Go's encoding/json.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Generic, NoReturn, TypeVar

from attrs import field, frozen

_T = TypeVar("_T")

USER_AGENT = "miaomiaowux/0.1"
KINDS = ("inbound", "outbound", "user")
DIRECTIONS = ("uplink", "downlink")

Counter = tuple[str, str, str]
"""The address of one counter: kind, name, direction."""

Stats = dict[Counter, int]
"""A snapshot of traffic: bytes since Xray started, by counter."""

_INT64 = range(-(2**63), 2**63)
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", re.ASCII)


@frozen
class Problem:
    """A rule of the wire that a payload breaks: a short `rule` to test for, and what was seen."""

    rule: str
    detail: str


class Refused(ValueError):
    """The master drops this payload whole; `problem` says why."""

    def __init__(self, rule: str, detail: str) -> None:
        super().__init__(f"{rule}: {detail}")
        self.problem = Problem(rule, detail)


@frozen
class Speed:
    """What the network cards carry, in bytes a second."""

    upload: int
    download: int


@frozen
class Heartbeat:
    """A heartbeat as stored: times are aware and UTC, None where the master has no usable one."""

    boot_time: datetime | None = None
    xray_boot_time: datetime | None = None
    listen_port: int = 0
    local_time: int = 0
    xray_pid: int = 0


@frozen
class Seen(Generic[_T]):
    """A payload that was taken: its value, and what was wrong with it all the same."""

    value: _T
    problems: list[Problem] = field(factory=list)


def load(data: bytes) -> Any:
    """Return the JSON value in `data`. NaN, Infinity and endless nesting are no JSON."""

    def no_constant(name: str) -> NoReturn:
        raise Refused("json", f"{name} is no JSON number")

    try:
        return json.loads(data.decode("utf-8", "replace"), parse_constant=no_constant)
    except Refused:
        raise
    except (ValueError, RecursionError) as error:
        raise Refused("json", f"this is no JSON: {error}") from error


def mapping(value: object, where: str) -> Mapping[str, Any]:
    """Return an object; null counts as an empty one."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise Refused("shape", f"{where} is {_name(value)}, not an object")
    return value


def integer(value: object, where: str) -> int:
    """Return an int64; null counts as 0. 5.0, "5" and true are no integers."""
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int):
        raise Refused("integer", f"{where} is {json.dumps(value)}, not an integer")
    if value not in _INT64:
        raise Refused("integer", f"{where} does not fit 64 bits")
    return value


def text(value: object, where: str) -> str:
    """Return a string; null counts as an empty one."""
    return _typed(value, where, str, "")


def boolean(value: object, where: str) -> bool:
    """Return a bool; null counts as false."""
    return _typed(value, where, bool, False)


def instant(value: object, where: str, rule: str = "time") -> datetime | None:
    """Return an RFC 3339 time, aware; null is None. A zone is needed, and T, and seconds."""
    if value is None:
        return None
    if not isinstance(value, str) or not _RFC3339.fullmatch(value):
        raise Refused(rule, f"{where} is {json.dumps(value)}, not an RFC 3339 time")
    try:
        return datetime.fromisoformat(value)
    except ValueError as error:
        raise Refused(rule, f"{where} is {value!r}: {error}") from error


def traffic(payload: object) -> Seen[Stats | None]:
    """Return the snapshot of a traffic payload, or None when it carries no `stats`."""
    stats = mapping(payload, "the traffic").get("stats")
    if stats is None:
        return Seen(None)
    kinds = mapping(stats, "stats")
    snapshot: Stats = {}
    problems = []
    for kind in KINDS:
        for name, entry in mapping(kinds.get(kind), f"stats.{kind}").items():
            counters = mapping(entry, f"stats.{kind}.{name}")
            for direction in DIRECTIONS:
                where = f"stats.{kind}.{name}.{direction}"
                value = snapshot[kind, name, direction] = integer(counters.get(direction), where)
                if value < 0:
                    problems.append(Problem("negative", f"{where} is {value}"))
    return Seen(snapshot, problems)


def speed(payload: object) -> Seen[Speed]:
    """Return a speed payload's two figures; an absent one is 0, and a problem."""
    fields = mapping(payload, "the speed")
    names = ("upload_speed", "download_speed")
    up, down = (integer(fields.get(name), name) for name in names)
    problems = [Problem("missing", f"no {name}") for name in names if fields.get(name) is None]
    problems += [Problem("negative", f"speed {value}") for value in (up, down) if value < 0]
    return Seen(Speed(up, down), problems)


def frame_heartbeat(payload: object) -> Seen[Heartbeat]:
    """
    Return the heartbeat of a WebSocket message, times in RFC 3339.

    It is never refused: decoding stops at the first bad field, and what follows stays zero. A
    time away from UTC is stored in a form that reads back as nothing.
    """
    values: dict[str, Any] = {}
    problems = []
    times = ("boot_time", "xray_boot_time")
    try:
        for name, value in mapping(payload, "the heartbeat").items():
            if name in times:
                values[name] = instant(value, name)
            elif name in ("listen_port", "local_time", "xray_pid"):
                values[name] = integer(value, name)
    except Refused as refusal:
        problems.append(refusal.problem)
    for name in times:
        values[name] = _stored(values.get(name), name, "utc", problems)
    return _heartbeat(values, problems)


def body_heartbeat(body: bytes) -> Seen[Heartbeat]:
    """
    Return the heartbeat of an HTTP body, times in whole Unix seconds.

    It is never refused: a field of a wrong type, and a body that is no JSON, count as zero.
    """
    values: dict[str, Any] = {}
    problems = []
    fields: Mapping[str, Any] = {}
    try:
        fields = mapping(load(body), "the heartbeat")
    except Refused as refusal:
        problems.append(refusal.problem)
    for name in ("boot_time", "xray_boot_time", "xray_pid", "listen_port", "local_time"):
        try:
            values[name] = integer(fields.get(name), name)
        except Refused as refusal:
            problems.append(refusal.problem)
    for name in ("boot_time", "xray_boot_time"):
        values[name] = _from_unix(values.get(name, 0), name, problems)
    return _heartbeat(values, problems)


def certificate(payload: object) -> Seen[Mapping[str, Any]]:
    """Return a cert_update's fields. Dates away from UTC are taken, and break the master."""
    fields = mapping(payload, "the cert_update")
    problems: list[Problem] = []
    integer(fields.get("cert_id"), "cert_id")
    boolean(fields.get("success"), "success")
    for name in ("domain", "cert_path", "key_path", "cert_pem", "key_pem", "error"):
        text(fields.get(name), name)
    for name in ("issue_date", "expiry_date"):
        moment = instant(fields.get(name), name, "certificate-date")
        _stored(moment, name, "certificate-date", problems)
    problems += _missing(fields, "cert_id", "domain", "success")
    return Seen(fields, problems)


def scan(payload: object) -> Seen[Mapping[str, Any]]:
    """Return a scan_result's fields."""
    fields = mapping(payload, "the scan_result")
    boolean(fields.get("xray_running"), "xray_running")
    text(fields.get("xray_version"), "xray_version")
    for index, inbound in enumerate(_typed(fields.get("inbounds"), "inbounds", list, [])):
        mapping(inbound, f"inbounds[{index}]")
    return Seen(fields, _missing(fields, "xray_running"))


def latency(payload: object) -> Seen[Mapping[str, Any]]:
    """Return a domain_latency_result's fields."""
    fields = mapping(payload, "the domain_latency_result")
    problems = _missing(fields, "request_id", "success", "results")
    text(fields.get("request_id"), "request_id")
    boolean(fields.get("success"), "success")
    text(fields.get("error"), "error")
    for index, entry in enumerate(_typed(fields.get("results"), "results", list, [])):
        where = f"results[{index}]"
        result = mapping(entry, where)
        for name, read in _RESULT.items():
            read(result.get(name), f"{where}.{name}")
        problems += _missing(result, "domain", "latency_ms", "success")
    return Seen(fields, problems)


_RESULT: dict[str, Callable[[object, str], object]] = {
    "domain": text,
    "target": text,
    "error": text,
    "success": boolean,
    "latency_ms": integer,
    "nginx_ssl_port": integer,
}


def _missing(fields: Mapping[str, Any], *names: str) -> list[Problem]:
    return [Problem("missing", f"no {name}") for name in names if fields.get(name) is None]


def _heartbeat(values: dict[str, Any], problems: list[Problem]) -> Seen[Heartbeat]:
    """Build the heartbeat, and say what every heartbeat needs and this one lacks."""
    beat = Heartbeat(**{name: value for name, value in values.items() if value is not None})
    if beat.listen_port not in range(1, 65536):
        problems.append(Problem("listen-port", f"the master stores port {beat.listen_port}"))
    if beat.boot_time is None:
        problems.append(Problem("boot-time", "the master has no usable boot_time"))
    return Seen(beat, problems)


def _stored(
    moment: datetime | None, where: str, rule: str, problems: list[Problem]
) -> datetime | None:
    """Return what the master can read back of a time; one away from UTC it cannot."""
    if moment is None or moment.utcoffset() == timedelta(0):
        return moment
    problems.append(Problem(rule, f"{where} is {moment.isoformat()}, not in UTC"))
    return None


def _from_unix(seconds: int, where: str, problems: list[Problem]) -> datetime | None:
    try:
        return datetime.fromtimestamp(seconds, UTC) if seconds else None
    except (ValueError, OverflowError, OSError):
        problems.append(Problem("time", f"{where} is {seconds}, outside the calendar"))
        return None


def _typed(value: object, where: str, kind: type[_T], empty: _T) -> _T:
    if value is None:
        return empty
    if not isinstance(value, kind):
        raise Refused("shape", f"{where} is {_name(value)}, not {_name(empty)}")
    return value


def _name(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean"}
    return names.get(type(value), "a number")
