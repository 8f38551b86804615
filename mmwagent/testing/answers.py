"""HTTP answers of the stand-in master, as values, and what it reads from request headers."""

from __future__ import annotations

import json

from attrs import frozen
from twisted.web.server import NOT_DONE_YET, Request

JSON = "application/json"
TEXT = "text/plain; charset=utf-8"


@frozen
class Reply:
    """Status, body and the few headers that matter."""

    status: int
    body: bytes
    content_type: str = JSON
    retry_after: int | None = None
    location: str | None = None


def as_json(status: int, **fields: object) -> Reply:
    """Return a reply with a JSON object."""
    return Reply(status, json.dumps(fields, ensure_ascii=False).encode() + b"\n")


def not_found() -> Reply:
    """Return what the master says to an unknown path."""
    return Reply(404, b"404 page not found\n", TEXT)


def start(request: Request, reply: Reply, length: int) -> None:
    """Set status and headers, claiming a body of `length` bytes."""
    request.setResponseCode(reply.status)
    request.setHeader("Content-Type", reply.content_type)
    request.setHeader("Content-Length", str(length))
    for name, value in (
        ("Retry-After", reply.retry_after),
        ("Location", reply.location),
    ):
        if value is not None:
            request.setHeader(name, str(value))


def finish(request: Request, reply: Reply) -> int:
    """Send a reply, whole."""
    start(request, reply, len(reply.body))
    request.write(reply.body)
    request.finish()
    return NOT_DONE_YET


def header(request: Request, name: str) -> str:
    """Return a header's first value, or nothing."""
    return str((request.requestHeaders.getRawHeaders(name) or [""])[0])


def token_headers(request: Request) -> dict[str, str]:
    """Return the tokens of the three headers that may carry one; empty where there is none."""
    authorization = header(request, "Authorization")
    bearer = authorization[7:] if authorization.startswith("Bearer ") else ""
    return {
        "X-Remote-Token": header(request, "X-Remote-Token").strip(),
        "Authorization": bearer.strip(),
        "MM-Remote-Token": header(request, "MM-Remote-Token").strip(),
    }
