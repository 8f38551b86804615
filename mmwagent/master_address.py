"""
The master's base address, from what people write to what the agent calls.

A part that might be a secret (a user's name and password, a query) never gets into a message.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address

import idna

from mmwagent.settings_values import Refused, port, printable, refused

_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)([^?#]*)(.*)", re.DOTALL)
_HOST_AND_PORT = re.compile(r"(?:\[([^\[\]]*)\]|([^:\[\]]*))(?::([0-9]*))?")
_HOST_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_URL_PATH = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2})*")
_SCHEMES = {"http": "http", "https": "https", "ws": "http", "wss": "https"}


def master_address(text: str) -> str:
    """
    Return the master's base address: scheme http or https, host, port and sub-path if given.

    `ws` and `wss` are understood as `http` and `https`. International names become their ASCII
    form (RFC 5891). The path ends without a slash.
    """
    clean = _without_secrets(text)
    match = _ADDRESS.fullmatch(text)
    if match is None or match[1].lower() not in _SCHEMES:
        hint = "" if "://" in text or not text else f', for example "https://{printable(clean)}"'
        raise refused(clean, f"begin with https:// or http://{hint}")
    scheme, authority, url_path, rest = match.groups()
    if "@" in authority:
        raise refused(clean, "hold no user name or password")
    if rest:
        raise refused(clean, "have no query (?) and no fragment (#)")
    if not _URL_PATH.fullmatch(url_path):
        raise refused(clean, "have a path of plain URL characters, others percent-encoded")
    return f"{_SCHEMES[scheme.lower()]}://{_host_and_port(authority, clean)}{url_path.rstrip('/')}"


def _without_secrets(text: str) -> str:
    scheme, separator, rest = text.partition("://") if "://" in text else ("", "", text)
    if not re.fullmatch(r"[A-Za-z0-9+.-]*", scheme):
        scheme = "***"
    if "@" in rest:
        rest = "***@" + rest.rpartition("@")[2]
    return scheme + separator + re.sub(r"([?#]).*", r"\1***", rest, flags=re.DOTALL)


def _host_and_port(authority: str, clean: str) -> str:
    match = _HOST_AND_PORT.fullmatch(authority)
    if match is None:
        raise refused(clean, "have a host, and a port as :number; an IPv6 address needs [ ]")
    literal, name, number = match.groups()
    try:
        host = _ipv6(literal) if literal is not None else _host_name(name)
    except ValueError:
        must = "have a host: a name, an IPv4 address, or an IPv6 address in [ ]"
        raise refused(clean, must) from None
    if not number:
        return host
    try:
        return f"{host}:{port(number)}"
    except Refused:
        raise refused(clean, "have a port from 1 to 65535") from None


def _ipv6(literal: str) -> str:
    value = IPv6Address(literal)
    if value.scope_id is not None:
        raise ValueError("a zone has no meaning in a URL")
    return f"[{value}]"


def _host_name(name: str) -> str:
    # idna.IDNAError is a ValueError. Plain ASCII goes round it: it would refuse underscores.
    ascii_name = (
        name.lower() if name.isascii() else idna.encode(name, uts46=True).decode("ascii").lower()
    )
    labels = ascii_name.split(".")
    if len(ascii_name) > 253 or not all(_HOST_LABEL.fullmatch(label) for label in labels):
        raise ValueError("not a host name")
    # A name that ends in a number is an IPv4 address or a slip (URL Standard, host parsing).
    return str(IPv4Address(ascii_name)) if labels[-1].isdigit() else ascii_name
