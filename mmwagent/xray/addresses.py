"""Where a running Xray is asked for its counters, as its configuration tells. Pure."""

from __future__ import annotations

import re

from attrs import frozen

from mmwagent.xray.document import Document, inbounds_leading_to, section

LOOPBACK = "127.0.0.1"
_HOST = re.compile(r"[0-9A-Za-z._:%-]*")
_WILDCARDS = {"": LOOPBACK, "0.0.0.0": LOOPBACK, "localhost": LOOPBACK, "::": "::1", "*": LOOPBACK}


@frozen
class Address:
    """A TCP address to connect to."""

    host: str
    port: int

    def url(self, path: str) -> str:
        """Return the plain HTTP URL of `path` there."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}{path}"


DEFAULT_METRICS = Address(LOOPBACK, 38889)


def parse_address(listen: object) -> Address | None:
    """
    Return where to connect for what Xray calls `listen`, None where that cannot be told.

    Takes "host:port", "[::1]:port", ":port", "port" and a number. A wildcard is reached on the
    loopback.
    """
    if isinstance(listen, int):
        return _address("", str(listen))
    if not isinstance(listen, str):
        return None
    host, _, port = listen.strip().rpartition(":")
    if ":" in host and not host.startswith("["):
        return None  # an IPv6 address without brackets: where its port begins is anybody's guess
    return _address(host, port)


def _address(host: str, port: str) -> Address | None:
    if not re.fullmatch("[0-9]{1,5}", port) or not 0 < int(port) < 65536:
        return None
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    host = _WILDCARDS.get(host.lower(), host)
    return Address(host, int(port)) if _HOST.fullmatch(host) else None


def metrics_addresses(document: Document) -> tuple[Address, ...]:
    """
    Return the addresses at which this Xray may give /debug/vars, to be tried in this order.

    `metrics.listen` alone where it is set. Else an inbound that a rule leads to the tag of
    `metrics` (Xray before 25.2.18 knew no other way), then `api.listen` (README, 流量采集), then
    the README's default, 127.0.0.1:38889.
    """
    metrics = section(document, "metrics")
    listen = parse_address(metrics.get("listen"))
    if listen is not None:
        return (listen,)
    tag = metrics.get("tag")
    inbounds = inbounds_leading_to(document, tag) if isinstance(tag, str) else ()
    candidates = [_of_inbound(inbound) for inbound in inbounds]
    candidates.append(parse_address(section(document, "api").get("listen")))
    candidates.append(DEFAULT_METRICS)
    return tuple(dict.fromkeys(address for address in candidates if address is not None))


def _of_inbound(inbound: Document) -> Address | None:
    listen, port = inbound.get("listen"), inbound.get("port")
    return _address(listen if isinstance(listen, str) else "", str(port))
