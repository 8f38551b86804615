"""
The switches of Xray that the master's page shows: counters, metrics and the API. Pure.

They are the five fields of `xray/system-config`. To set one touches what it is about, and that
alone: `policy` stays when the counters are switched off, and so does every other rule.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import asdict, frozen

from mmwagent.xray.addresses import LOOPBACK, Address, metrics_addresses, parse_address
from mmwagent.xray.completion import Completion, FreePort, api_inbounds
from mmwagent.xray.document import Document, objects, rules, section, texts
from mmwagent.xray.ports import single, taken


class PortTaken(Exception):
    """A port that was asked for belongs to another part of the configuration; str() says which."""


@frozen
class Switches:
    """
    How the switches of a configuration stand.

    `metrics_listen` is "host:port", "" where it is off; `grpc_port` is 0 where there is no API or
    none that listens on a TCP port.
    """

    metrics_enabled: bool
    metrics_listen: str
    stats_enabled: bool
    grpc_enabled: bool
    grpc_port: int

    def fields(self) -> dict[str, Any]:
        """Return the fields of the answer."""
        return asdict(self)


@frozen
class Wanted:
    """What is to be changed; None leaves a switch alone."""

    metrics_enabled: bool | None = None
    metrics_listen: str | None = None
    stats_enabled: bool | None = None
    grpc_enabled: bool | None = None
    grpc_port: int | None = None

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Wanted:
        """
        Return what the `fields` of a request name; null and fields of other names count as none.

        Raises ValueError that names the field.
        """
        for name in ("metrics_enabled", "stats_enabled", "grpc_enabled"):
            if not isinstance(fields.get(name), bool | None):
                raise ValueError(f"{name} must be true or false")
        listen, port = fields.get("metrics_listen"), fields.get("grpc_port")
        if not isinstance(listen, str | None):
            raise ValueError('metrics_listen must be a text, as "127.0.0.1:38889"')
        if listen and parse_address(listen) is None:
            raise ValueError('metrics_listen must be "host:port", as "127.0.0.1:38889"')
        if isinstance(port, bool) or not isinstance(port, int | None):
            raise ValueError("grpc_port must be a whole number")
        if port is not None and not 0 <= port <= 65535:
            raise ValueError("grpc_port must be from 1 to 65535, or 0 to have one chosen")
        names = ("metrics_enabled", "metrics_listen", "stats_enabled", "grpc_enabled", "grpc_port")
        return cls(**{name: fields.get(name) for name in names})

    def nothing(self) -> bool:
        """Return whether no switch is named."""
        return self == Wanted()


def switches(document: Document) -> Switches:
    """Return how the switches of `document` stand."""
    listen = ""
    if _is_there(document, "metrics"):
        address = metrics_addresses(document)[0]
        own = section(document, "metrics").get("listen")
        listen = own if isinstance(own, str) and own else address.url("").removeprefix("http://")
    port = _api_port(document)
    return Switches(
        metrics_enabled=_is_there(document, "metrics"),
        metrics_listen=listen,
        stats_enabled=_is_there(document, "stats"),
        grpc_enabled=_has_api(document),
        grpc_port=port or 0,
    )


def switched(document: Document, wanted: Wanted, free_port: FreePort) -> Document:
    """
    Return `document` with the switches as `wanted`.

    What is switched on is completed as a scan would. Raises ValueError that names the field,
    InvalidDocument, PortTaken.
    """
    if wanted.stats_enabled is not None:
        document = _with_stats(document, wanted.stats_enabled, free_port)
    document = _with_api(document, wanted, free_port)
    return _with_metrics(document, wanted, free_port)


def _with_stats(document: Document, on: bool, free_port: FreePort) -> Document:
    if not on:
        return _without(document, "stats")
    work = Completion(document, free_port)
    work.counters()
    return work.document


def _with_api(document: Document, wanted: Wanted, free_port: FreePort) -> Document:
    if wanted.grpc_enabled is False:
        return _unlinked(document, "api")
    if wanted.grpc_enabled:
        work = Completion(document, free_port)
        work.api()
        document = work.document
    port = wanted.grpc_port
    if not port or port == _api_port(document):
        return document
    if not _has_api(document):
        raise ValueError("grpc_port: there is no API; send grpc_enabled: true as well")
    return _with_api_port(document, port)


def _with_api_port(document: Document, port: int) -> Document:
    _check_port(document, "grpc_port", port)
    api = section(document, "api")
    address = parse_address(api.get("listen"))
    if address is not None:
        return {**document, "api": {**api, "listen": _host_port(address.host, port)}}
    first = next(api_inbounds(document, api["tag"]), None)
    if first is None:
        raise ValueError("grpc_port: the API here listens on no TCP port")
    inbounds = [
        {**inbound, "port": port} if inbound is first else inbound
        for inbound in document["inbounds"]
    ]
    return {**document, "inbounds": inbounds}


def _with_metrics(document: Document, wanted: Wanted, free_port: FreePort) -> Document:
    if wanted.metrics_enabled is False:
        return _unlinked(document, "metrics")
    listen = _full(wanted.metrics_listen)
    if wanted.metrics_enabled:
        work = Completion(document, free_port)
        work.metrics()
        document = work.document
    elif listen is not None and not _is_there(document, "metrics"):
        raise ValueError("metrics_listen: there are no metrics; send metrics_enabled: true, too")
    if listen is None or listen == switches(document).metrics_listen:
        return document
    return _with_metrics_listen(document, listen)


def _with_metrics_listen(document: Document, listen: str) -> Document:
    address = parse_address(listen)
    assert address is not None
    metrics = section(document, "metrics")
    now = parse_address(metrics.get("listen"))
    if now is None or now.port != address.port:
        _check_port(document, "metrics_listen", address.port)
    return {**document, "metrics": {**metrics, "listen": listen}}


def _full(listen: str | None) -> str | None:
    """Return `listen` as Xray takes it, which needs the host as well; None for nothing."""
    address = parse_address(listen) if listen else None
    if listen is None or address is None:
        return None
    listen = listen.strip()
    return listen if ":" in listen else _host_port(LOOPBACK, address.port)


def _check_port(document: Document, field: str, port: int) -> None:
    # Xray would take it for both, and share the connections out between them.
    owner = taken(document).who(port)
    if owner is not None:
        raise PortTaken(f"{field}: port {port} belongs to {owner}")


def _is_there(document: Document, name: str) -> bool:
    return document.get(name) is not None


def _has_api(document: Document) -> bool:
    tag = section(document, "api").get("tag")
    return isinstance(tag, str) and bool(tag)


def _api_port(document: Document) -> int | None:
    api = section(document, "api")
    if not _has_api(document):
        return None
    address = parse_address(api.get("listen"))
    if address is not None:
        return address.port
    ports = (single(inbound.get("port")) for inbound in api_inbounds(document, api["tag"]))
    return next((port for port in ports if port), None)


def _host_port(host: str, port: int) -> str:
    return Address(host, port).url("").removeprefix("http://")


def _without(document: Document, name: str) -> Document:
    return {key: value for key, value in document.items() if key != name}


def _unlinked(document: Document, name: str) -> Document:
    """Return `document` without the section `name`, and without what only leads to it."""
    tag = section(document, name).get("tag")
    rest = dict(_without(document, name))
    if not isinstance(tag, str):
        return rest
    leading = [rule for rule in rules(document) if rule.get("outboundTag") == tag]
    if not leading:
        return rest
    if any(one.get("tag") == tag for one in objects(document, "outbounds")):
        return rest  # they lead to an outbound of that name then
    routing = section(document, "routing")
    kept = [rule for rule in routing["rules"] if not any(rule is one for one in leading)]
    rest["routing"] = {**routing, "rules": kept}
    elsewhere = {name for rule in rules(rest) for name in texts(rule.get("inboundTag"))}
    ways = [one for one in api_inbounds(document, tag) if one.get("tag") not in elsewhere]
    if ways:
        inbounds = document["inbounds"]
        rest["inbounds"] = [one for one in inbounds if not any(one is way for way in ways)]
    return rest
