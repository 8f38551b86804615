"""Whether a site can be what the master is to set it up as (protocol 1.2 row 21)."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from attrs import define
from twisted.internet.defer import Deferred
from twisted.web.http import Request

from mmwagent.host.latency import Prober
from mmwagent.manage.bodies import json_object
from mmwagent.manage.errors import ApiError

TIMEOUT_MS = 3000
LONGEST = 2048  # characters

INDEX = ("index.html", "index.htm", "index.php")
NEVER_SERVED = ("/etc", "/proc", "/sys", "/dev", "/boot", "/run")

# The value becomes part of an nginx directive, where these would end it or mean something.
_UNSAFE = re.compile(r"""[\x00-\x20\x7f;{}$"'\\#]""")
_PORTS = {"http": 80, "https": 443}


class Unfit(ValueError):
    """A value that no site can be made of; str() says why."""


@define
class SitesResource:
    """Looks at directories in a thread, and at addresses with the prober of latencies."""

    prober: Prober
    in_thread: Callable[..., Deferred[Any]]

    async def validate(self, request: Request) -> dict[str, Any]:
        """
        POST validate-site: {"site_type": "static"|"proxy", "site_value"} -> {"message"}.

        static: a directory on this machine. proxy: an http or https URL, or host:port, whose
        port takes a TCP connection within 3 s. A value that will not do is no error: "success"
        is false then and "message" says why. ApiError 400 for another type or no value.
        """
        body = json_object(request)
        site_type, value = body.get("site_type"), body.get("site_value")
        if site_type not in ("static", "proxy"):
            raise ApiError(400, "site_type must be static or proxy")
        if not isinstance(value, str):
            raise ApiError(400, "site_value must be a text: a directory, or a URL or host:port")
        look = self._static if site_type == "static" else self._proxy
        try:
            return {"success": True, "message": await look(_safe(value))}
        except Unfit as problem:
            return {"success": False, "message": str(problem)}

    async def _static(self, value: str) -> str:
        message: str = await self.in_thread(directory, value)
        return message

    async def _proxy(self, value: str) -> str:
        where = address(value)
        [outcome] = await self.prober.probe([where], TIMEOUT_MS)
        if not outcome.success:
            raise Unfit(f"{where} cannot be reached: {outcome.error}")
        return f"{where} answers within {outcome.latency_ms} ms"


def directory(value: str) -> str:
    """Return what there is to say for the directory `value`. Blocks. Raises Unfit."""
    if not value.startswith("/") or ".." in value.split("/"):
        raise Unfit('the directory must be an absolute path without ".."')
    try:
        real = Path(os.path.realpath(value))
        names = set(os.listdir(real))
    except (FileNotFoundError, NotADirectoryError):
        raise Unfit(f"there is no directory {value}") from None
    except (OSError, ValueError) as problem:
        raise Unfit(f"{value} cannot be looked into: {problem}") from None
    if real == Path("/") or any(real.is_relative_to(one) for one in NEVER_SERVED):
        raise Unfit(f"{real} belongs to the system and must not be served")
    if names.isdisjoint(INDEX):
        return f"the directory is there, but has no {INDEX[0]}: nginx answers 403 until it has"
    return "the directory is there"


def address(value: str) -> str:
    """Return the host:port that `value`, a URL or host:port, leads to. Raises Unfit."""
    if "://" not in value:
        value = f"tcp://{value}"
    try:
        parts = urlsplit(value)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise Unfit("the address of the site cannot be understood") from None
    if parts.scheme not in ("http", "https", "tcp") or not host:
        raise Unfit("the site must be an http or https URL, or host:port")
    if host == "unix":
        raise Unfit("a UNIX socket cannot be tried; give a URL or host:port")
    if parts.username is not None:
        raise Unfit("the site must not hold a user name")
    port = _PORTS.get(parts.scheme) if port is None else port
    if not port or (parts.scheme == "tcp" and (parts.path or parts.query)):
        raise Unfit("the site must be an http or https URL, or host:port with a port over 0")
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _safe(value: str) -> str:
    value = value.strip()
    if not value or len(value) > LONGEST or _UNSAFE.search(value):
        raise Unfit(
            f"the site must be a text of 1 to {LONGEST} characters, without spaces, quotes, "
            "and the signs ; { } $ # and backslash"
        )
    return value
