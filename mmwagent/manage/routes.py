"""
The routing table of the management API, to be held against the README, and how it is served.

A handler is `async def handler(request) -> dict`; the dict becomes JSON with status 200. What it
raises becomes {"success": false, "error": ...}: an ApiError as it says, anything else a 500 that
tells nothing but that it is in the log.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from attrs import frozen
from klein import Klein
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure
from twisted.web.http import Request
from twisted.web.resource import IResource, Resource
from werkzeug.exceptions import MethodNotAllowed, NotFound
from werkzeug.routing import RequestRedirect

from mmwagent.logs import logger
from mmwagent.manage.errors import ApiError
from mmwagent.manage.nginx import NginxResource
from mmwagent.manage.probes import ProbesResource
from mmwagent.manage.pull import PullResource
from mmwagent.manage.services import ControlResource, ServicesResource
from mmwagent.manage.sites import SitesResource
from mmwagent.manage.system import SystemResource
from mmwagent.manage.xray import XrayResource

log = logger()

Handler = Callable[[Request], Awaitable[dict[str, Any]]]


@frozen
class Route:
    """One verb of one path."""

    method: str
    path: str
    handler: Handler


def routes(
    *,
    pull: PullResource,
    services: ServicesResource,
    control: ControlResource,
    xray: XrayResource,
    nginx: NginxResource,
    sites: SitesResource,
    probes: ProbesResource,
    system: SystemResource,
) -> tuple[Route, ...]:
    """
    Return the routing table, in the README's order.

    Beside the README's own rows stand those that masters and agents of this wire use as well:
    POST for PUT, config-files for config/files, and endpoints the README does not name.
    """
    return (
        Route("GET", "/health", system.health),
        Route("GET", "/api/child/services/status", services.status),
        Route("POST", "/api/child/services/control", control.control),
        Route("GET", "/api/child/xray/config", xray.config),
        *_written("/api/child/xray/config", xray.put_config),
        *_files("/api/child/xray", xray.files, xray.put_file),
        Route("GET", "/api/child/xray/system-config", xray.system_config),
        *_written("/api/child/xray/system-config", xray.put_system_config),
        Route("GET", "/api/child/nginx/config", nginx.config),
        *_written("/api/child/nginx/config", nginx.write_config),
        *_files("/api/child/nginx", nginx.files, nginx.write_file),
        Route("POST", "/api/child/nginx/setup-ssl", nginx.setup_ssl),
        Route("POST", "/api/child/nginx/clear-stream-port", nginx.clear_stream_port),
        Route("POST", "/api/child/validate-site", sites.validate),
        Route("POST", "/api/child/scan", xray.scan),
        Route("POST", "/api/child/domains/latency", probes.latency),
        Route("GET", "/api/child/system/info", system.info),
        Route("GET", "/api/child/traffic", pull.traffic),
        Route("GET", "/api/child/speed", pull.speed),
    )


def _written(path: str, handler: Handler) -> tuple[Route, ...]:
    """Return the routes of what is written: PUT as the README has it, POST as masters send it."""
    return (Route("PUT", path, handler), Route("POST", path, handler))


def _files(prefix: str, read: Handler, write: Handler) -> tuple[Route, ...]:
    """Return the routes of a program's configuration files, by both spellings of their path."""
    return tuple(
        route
        for path in (f"{prefix}/config/files", f"{prefix}/config-files")
        for route in (Route("GET", path, read), *_written(path, write))
    )


def resource(table: Iterable[Route]) -> IResource:
    """Return the web resource that serves `table`."""
    app: Any = Klein()
    for number, route in enumerate(table):
        app.route(route.path, methods=[route.method], endpoint=f"route-{number}")(
            _served(route.handler)
        )
    # A redirect is what Klein makes of doubled slashes.
    app.handle_errors(NotFound, RequestRedirect)(_not_found)
    app.handle_errors(MethodNotAllowed)(_not_allowed)
    return _Tamed(app.resource())


class _Tamed(Resource):
    """
    Keeps from Klein what it would fail on, with a traceback in the log for each such request.

    It reads the Host header, which decides nothing here but may hold anything, and /health is open
    to all. And it takes a path in UTF-8 only.
    """

    isLeaf = True

    def __init__(self, served: IResource) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._served = served

    def render(self, request: Any) -> Any:
        """Have Klein answer `request`, a twisted.web.server.Request."""
        request.requestHeaders.setRawHeaders(b"host", [b"agent"])
        request.postpath = [
            part.decode("utf-8", "replace").encode("utf-8") for part in request.postpath
        ]
        return self._served.render(request)


def _served(handler: Handler) -> Callable[[Request], Deferred[bytes]]:
    def serve(request: Request) -> Deferred[bytes]:
        # Klein cancels it when whoever asked is gone.
        return Deferred.fromCoroutine(_answer(handler, request))

    return serve


async def _answer(handler: Handler, request: Request) -> bytes:
    try:
        return _json(request, 200, await handler(request))
    except ApiError as error:
        for name, value in error.headers.items():
            request.setHeader(name.encode("ascii"), value.encode("ascii"))
        return _problem(request, error.status, error.error)
    except CancelledError:
        raise
    except Exception:
        log.failure("{path} failed", path=request.path.decode("ascii", "replace"))
        return _problem(request, 500, "the agent failed at this; its log says why")


def _not_found(request: Request, failure: Failure) -> bytes:
    return _problem(request, 404, "there is nothing at this path")


def _not_allowed(request: Request, failure: Failure) -> bytes:
    error = failure.value
    methods = error.valid_methods if isinstance(error, MethodNotAllowed) else None
    allowed = ", ".join(sorted(methods or ()))
    request.setHeader(b"Allow", allowed.encode("ascii"))
    return _problem(request, 405, f"this path takes {allowed}")


def _problem(request: Request, status: int, error: str) -> bytes:
    return _json(request, status, {"success": False, "error": error})


def _json(request: Request, status: int, value: dict[str, Any]) -> bytes:
    request.setResponseCode(status)
    request.setHeader(b"Content-Type", b"application/json; charset=utf-8")
    body = json.dumps(value, separators=(",", ":"), allow_nan=False).encode("ascii")
    request.setHeader(b"Content-Length", str(len(body)).encode("ascii"))
    return body
