"""Resolving names with DNS queries in the reactor: many at once, and none holds up a thread."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ipaddress import IPv6Address
from typing import Any

from twisted.internet.defer import Deferred
from twisted.names import dns
from twisted.names.client import Resolver
from twisted.names.error import DomainError
from twisted.names.hosts import Resolver as HostsFile
from twisted.names.resolve import ResolverChain

QUERY_TIMEOUTS = (1, 2)  # seconds, of the first query and of its repetition


def resolver(
    reactor: Any, hosts: str = "/etc/hosts", configuration: str = "/etc/resolv.conf"
) -> Callable[[str], Deferred[Sequence[str]]]:
    """
    Return what gives the addresses of a host name, by /etc/hosts and the servers of resolv.conf.

    IPv6 is asked for only where there is no IPv4 address. Fails as twisted.names does.
    """
    made: list[Any] = []

    def resolve(host: str) -> Deferred[Sequence[str]]:
        if not made:
            # At the first call, for it looks at resolv.conf each minute from then on.
            dns_servers = Resolver(configuration, reactor=reactor)
            made.append(ResolverChain([HostsFile(hosts), dns_servers]))
        return Deferred.fromCoroutine(_addresses(made[0], host))

    return resolve


async def _addresses(names: Any, host: str) -> Sequence[str]:
    try:
        found = _in(await names.lookupAddress(host, QUERY_TIMEOUTS))
    except DomainError:
        found = []
    return found or _in(await names.lookupIPV6Address(host, QUERY_TIMEOUTS))


def _in(answer: Any) -> list[str]:
    """Return the addresses in an answer; other records of it only lead to them."""
    addresses = []
    for record in answer[0]:
        if record.type == dns.A:
            addresses.append(record.payload.dottedQuad())
        elif record.type == dns.AAAA:
            addresses.append(str(IPv6Address(record.payload.address)))
    return addresses
