"""
Adding what a configuration of Xray lacks to be watched and managed, and only that. Pure.

That is: counters (`stats`, and the flags of `policy` that have Xray count), the API (`api`, with
an inbound and a rule that lead to it, or its `listen` where that is how it is set up), and
`metrics`, where the counters are read (README, 扫描自动补全). What stands there already stays as
it is: values, order and all, a flag that was set to false as well.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from typing import Any

from mmwagent.xray.addresses import DEFAULT_METRICS, LOOPBACK
from mmwagent.xray.document import (
    Document,
    InvalidDocument,
    inbounds_leading_to,
    objects,
    rules,
    section,
    texts,
)
from mmwagent.xray.ports import taken

FreePort = Callable[[int, Container[int]], int]
"""(preferred, taken by the configuration) -> a port that is free on this machine as well."""

API_PORT = 46736  # that of the master's templates
SERVICES = ("HandlerService", "StatsService", "RoutingService")
"""What the agent needs of Xray's API."""

TUNNELS = ("dokodemo-door", "tunnel")
"""The protocol that leads to the API, by its old name, which each Xray knows, and its new one."""

_SYSTEM_FLAGS = tuple(
    f"stats{what}{way}" for what in ("Inbound", "Outbound") for way in ("Uplink", "Downlink")
)
_USER_FLAGS = ("statsUserUplink", "statsUserDownlink")
_LOOPBACKS = (LOOPBACK, "::1", "localhost")
_USER_LISTS = ("clients", "users", "accounts")


def complete(document: Document, free_port: FreePort) -> tuple[Document, tuple[str, ...]]:
    """
    Return `document` with all it lacked, and the names of what was added.

    These are "stats", "policy", "api", "api_inbound", "api_routing_rule" and "metrics". Nothing
    is added to a document that this function has returned. Raises InvalidDocument where something
    of another kind stands in the place: it is left for people to judge.
    """
    work = Completion(document, free_port)
    work.counters()
    work.api()
    work.metrics()
    return work.document, tuple(dict.fromkeys(work.added))


def api_inbounds(document: Document, tag: str) -> Iterator[Document]:
    """Give the inbounds that do nothing but lead to the API (or metrics) of the tag `tag`."""
    yield from (one for one in inbounds_leading_to(document, tag) if is_tunnel(one))


def is_tunnel(inbound: Document) -> bool:
    """Return whether `inbound` passes on what it gets, as the way to the API does."""
    return inbound.get("protocol") in TUNNELS


class Completion:
    """
    A document on its way: each step adds what it is about, and tells so in `added`.

    The document given is not altered; only what changes is copied.
    """

    def __init__(self, document: Document, free_port: FreePort) -> None:
        self.document: dict[str, Any] = dict(document)
        self.added: list[str] = []
        self._free_port = free_port

    def counters(self) -> None:
        """Have Xray count, for all inbounds, all outbounds and all users."""
        if self.document.get("stats") is None:
            self.document["stats"] = {}
            self.added.append("stats")
        _object(self.document, "stats")
        missing = list(_missing_flags(self.document))
        for *above, flag in missing:
            target = _own_object(self.document, "policy")
            for name in above:
                target = _own_object(target, name)
            target[flag] = True
        if missing:
            self.added.append("policy")

    def api(self) -> None:
        """Give the agent its way to Xray's API."""
        self._api_itself()
        api = self.document["api"]
        if not api.get("listen"):
            self._api_inbound(api["tag"])

    def metrics(self) -> None:
        """Have Xray show its counters."""
        metrics = _object(self.document, "metrics")
        tag = metrics.get("tag")
        if metrics.get("listen") or (
            isinstance(tag, str) and any(inbounds_leading_to(self.document, tag))
        ):
            return
        new = _own_object(self.document, "metrics")
        if not metrics:
            new["tag"] = _free_tag("metrics", self._outbound_tags())
        port = self._free_port(DEFAULT_METRICS.port, taken(self.document))
        new["listen"] = f"{LOOPBACK}:{port}"
        self.added.append("metrics")

    def _api_itself(self) -> None:
        api = _object(self.document, "api")
        tag, services = api.get("tag"), _list(api, "services", "api.services")
        known = {one.lower() for one in texts(services)}
        lacking = [one for one in SERVICES if one.lower() not in known]
        if tag is not None and not isinstance(tag, str):
            raise InvalidDocument("api.tag must be a text")
        if tag and not lacking:
            return
        new = _own_object(self.document, "api")
        if not tag:
            new["tag"] = _free_tag("api", self._outbound_tags())
        new["services"] = [*services, *lacking]
        self.added.append("api")

    def _api_inbound(self, tag: str) -> None:
        if any(api_inbounds(self.document, tag)):
            return
        named = self._named_by_rule(tag)
        inbound_tag = named or self._tunnel_without_rule(tag)
        if named or inbound_tag is None:
            inbounds = _list(self.document, "inbounds", "inbounds")
            inbound_tag = named or _free_tag("api", self._inbound_tags())
            inbound = {
                "tag": inbound_tag,
                "listen": LOOPBACK,
                "port": self._free_port(API_PORT, taken(self.document)),
                "protocol": TUNNELS[0],
                "settings": {"address": LOOPBACK},
            }
            self.document["inbounds"] = [*inbounds, inbound]
            self.added.append("api_inbound")
        if not named:
            self._api_rule(inbound_tag, tag)

    def _api_rule(self, inbound_tag: str, tag: str) -> None:
        rule = {"type": "field", "inboundTag": [inbound_tag], "outboundTag": tag}
        routing = _own_object(self.document, "routing")
        # First of all, for one that takes everything may stand among the others.
        routing["rules"] = [rule, *_list(routing, "rules", "routing.rules")]
        self.added.append("api_routing_rule")

    def _named_by_rule(self, tag: str) -> str | None:
        """Return the inbound that a rule leads to the API, though there is none of that tag."""
        leading = (rule for rule in rules(self.document) if rule.get("outboundTag") == tag)
        names = (name for rule in leading for name in texts(rule.get("inboundTag")))
        there = self._inbound_tags()
        return next((name for name in names if name and name not in there), None)

    def _tunnel_without_rule(self, tag: str) -> str | None:
        """Return the tag of an inbound that is plainly for the API, but that no rule leads on."""
        led = {name for rule in rules(self.document) for name in texts(rule.get("inboundTag"))}
        for inbound in objects(self.document, "inbounds"):
            name = inbound.get("tag")
            # Not one that all the world could reach: it was not the API so far.
            within = inbound.get("listen") in _LOOPBACKS
            if name in (tag, "api") and is_tunnel(inbound) and within and name not in led:
                return str(name)
        return None

    def _inbound_tags(self) -> set[str]:
        tags = (inbound.get("tag") for inbound in objects(self.document, "inbounds"))
        return {tag for tag in tags if isinstance(tag, str)}

    def _outbound_tags(self) -> set[str]:
        """Return the tags that an outbound has, or that API and metrics have as if they were."""
        tags = [one.get("tag") for one in objects(self.document, "outbounds")]
        tags += [section(self.document, name).get("tag") for name in ("api", "metrics")]
        return {tag for tag in tags if isinstance(tag, str)}


def _missing_flags(document: Document) -> Iterator[tuple[str, ...]]:
    """Give the path below `policy` of each flag that is not there."""
    policy = _object(document, "policy")
    system = _object(policy, "system", "policy.system")
    yield from (("system", flag) for flag in _SYSTEM_FLAGS if system.get(flag) is None)
    levels = _object(policy, "levels", "policy.levels")
    for level in dict.fromkeys(["0", *levels, *_levels_of_users(document)]):
        flags = _object(levels, level, f"policy.levels.{level}")
        yield from (("levels", level, flag) for flag in _USER_FLAGS if flags.get(flag) is None)


def _levels_of_users(document: Document) -> Iterator[str]:
    for inbound in objects(document, "inbounds"):
        settings = section(inbound, "settings")
        users = [user for name in _USER_LISTS for user in objects(settings, name)]
        found = [settings.get("userLevel"), *(user.get("level") for user in users)]
        yield from (str(level) for level in found if type(level) is int and level >= 0)


def _free_tag(wanted: str, used: Container[str]) -> str:
    tag, number = wanted, 1
    while tag in used:
        number += 1
        tag = f"{wanted}-{number}"
    return tag


def _object(outer: Document, name: str, place: str = "") -> Document:
    """Return the object under `name`, an empty one for none; null is none to Xray as well."""
    value = outer.get(name)
    if value is not None and not isinstance(value, dict):
        raise InvalidDocument(f"{place or name} must be a JSON object")
    return value or {}


def _own_object(outer: dict[str, Any], name: str, place: str = "") -> dict[str, Any]:
    """Put a copy of the object under `name` in its place, so that it can be changed; return it."""
    copy = outer[name] = dict(_object(outer, name, place))
    return copy


def _list(outer: Document, name: str, place: str) -> list[Any]:
    value = outer.get(name)
    if value is not None and not isinstance(value, list):
        raise InvalidDocument(f"{place} must be a list")
    return value or []
