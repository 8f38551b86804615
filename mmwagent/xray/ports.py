"""
Which ports a configuration of Xray has taken. Pure.

A port stands there as a number, or as a text that lists ports and ranges: "443,8000-8010". See
Xray's documentation on `port` of an inbound.
"""

from __future__ import annotations

from collections.abc import Iterator

from attrs import frozen

from mmwagent.xray.addresses import parse_address
from mmwagent.xray.document import Document, objects, section

_HIGHEST = 65535


@frozen
class Taken:
    """Ports that somebody has, each range with a word for who that is."""

    by: tuple[tuple[range, str], ...]

    def __contains__(self, port: object) -> bool:
        return any(port in ports for ports, _ in self.by)

    def who(self, port: int) -> str | None:
        """Return who has `port`, None where nobody has."""
        return next((owner for ports, owner in self.by if port in ports), None)


def taken(document: Document) -> Taken:
    """Return the ports that the inbounds, the API and the metrics of `document` have."""
    return Taken(tuple(_all(document)))


def _all(document: Document) -> Iterator[tuple[range, str]]:
    for inbound in objects(document, "inbounds"):
        for ports in ranges(inbound.get("port")):
            yield ports, f"the inbound {inbound.get('tag', '')!r}"
    for name in ("api", "metrics"):
        address = parse_address(section(document, name).get("listen"))
        if address is not None:
            yield range(address.port, address.port + 1), f"{name}.listen"


def ranges(port: object) -> Iterator[range]:
    """Give the ports that `port` stands for; what is no port (as "env:NAME") is passed over."""
    if isinstance(port, bool):
        return
    if isinstance(port, int):
        port = str(port)
    if not isinstance(port, str):
        return
    for part in port.split(","):
        first, dash, last = part.strip().partition("-")
        low, high = _number(first), _number(last) if dash else _number(first)
        if low is not None and high is not None and low <= high:
            yield range(low, high + 1)


def single(port: object) -> int | None:
    """Return the one port that `port` stands for, None where it is none or several."""
    found = list(ranges(port))
    return found[0].start if len(found) == 1 and len(found[0]) == 1 else None


def _number(text: str) -> int | None:
    text = text.strip()
    if not (text.isascii() and text.isdecimal() and len(text) <= 5):
        return None
    return int(text) if 0 < int(text) <= _HIGHEST else None
