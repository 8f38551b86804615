"""nginx's configuration (README, Nginx 管理; protocol 1.2 rows 9, 10, 18 and 20)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from attrs import define
from twisted.internet.defer import Deferred
from twisted.web.http import Request

from mmwagent.host.service import Busy, NotInstalled, Refused, ServiceFailed
from mmwagent.manage.bodies import json_object
from mmwagent.manage.errors import ApiError
from mmwagent.nginx.apply import NginxApply, Outcome
from mmwagent.nginx.documents import LARGEST_FILE, as_bytes, read_text
from mmwagent.nginx.files import NotWritten
from mmwagent.nginx.layout import Layout
from mmwagent.nginx.listing import ConfigFile, listing
from mmwagent.nginx.names import NoHostName, host_name
from mmwagent.nginx.site import SitePlan, SiteSetup
from mmwagent.nginx.streams import Clearance, clearance


@define
class NginxResource:
    """
    Reads nginx's files, and has `apply` change them.

    Everything fails with ApiError: 400 names the field, 404 a file that is not there, 409 while
    something else is done with nginx, 413, 422 has nginx's words for what it refuses, 502 those
    of a service that does not do it, 503 where there is no nginx, 507 where the file system does
    not take it. Nothing has changed then.
    """

    apply: NginxApply
    in_thread: Callable[..., Deferred[Any]]
    now: Callable[[], datetime]

    async def config(self, request: Request) -> dict[str, Any]:
        """GET nginx/config: {"path", "config": the text of the main file}; ?path= for another."""
        path, text = await self._read(_query(request, "path"), "path")
        return {"success": True, "path": path, "config": text}

    async def write_config(self, request: Request) -> dict[str, Any]:
        """PUT or POST nginx/config: {"config": str, "path"?: str} -> {"path", "message", ...}."""
        body = json_object(request)
        name = _text(body, "path") if body.get("path") is not None else None
        return await self._write(name, "path", _content(body, "config"))

    async def files(self, request: Request) -> dict[str, Any]:
        """
        GET nginx/config/files: {"base_dir", "files": {"main": [file], "conf.d": [...]}, "all"}.

        A file is {"name", "path", "size" in bytes, "mod_time"}; "all" has them in one list. With
        ?file= it is that one: {"path", "content"}.
        """
        name = _query(request, "file")
        if name is not None:
            path, text = await self._read(name, "file")
            return {"success": True, "path": path, "content": text}
        layout = await self._layout()
        found: Mapping[str, list[ConfigFile]] = await self.in_thread(listing, layout)
        groups = {group: [_shown(file) for file in files] for group, files in found.items()}
        return {
            "success": True,
            "base_dir": str(layout.directory),
            "files": groups,
            "all": [file for files in groups.values() for file in files],
        }

    async def write_file(self, request: Request) -> dict[str, Any]:
        """PUT or POST nginx/config/files[?file=]: {"path" or "file": str, "content": str}."""
        body = json_object(request)
        field = next((name for name in ("path", "file") if body.get(name) is not None), None)
        name = _text(body, field) if field is not None else _query(request, "file")
        if name is None:
            raise ApiError(400, "path must name the file to write")
        return await self._write(name, field or "file", _content(body, "content"))

    async def setup_ssl(self, request: Request) -> dict[str, Any]:
        """
        POST nginx/setup-ssl: {"domain", "domain_config"?, "nginx_config"?}.

        The site's text goes into servers/NAME.conf, a text of ours without `domain_config`; the
        main file changes only with `nginx_config`, or where nothing else would include the site.
        Certificates that the texts name and that are still to come are stood in for.
        """
        body = json_object(request)
        setup = SiteSetup(
            domain=_domain(body),
            now=self.now(),
            site=_optional_content(body, "domain_config"),
            main=_optional_content(body, "nginx_config"),
        )
        plans: list[SitePlan] = []

        def compute(layout: Layout) -> Mapping[Path, bytes | None]:
            plans.append(setup.plan(layout))
            return plans[-1].contents

        with _problems("domain"):
            outcome = await self.apply.change(compute)
        plan = plans[-1]
        return {
            **_told(str(plan.file), outcome),
            "domain": setup.domain,
            "included_by": str(plan.included_by) if plan.included_by is not None else "",
            "placeholders": [str(path) for path in plan.placeholders],
        }

    async def clear_stream_port(self, request: Request) -> dict[str, Any]:
        """
        POST nginx/clear-stream-port: {"port": int} -> {"removed": int}.

        Stream servers in stream_servers/ give the port up: those that listen nowhere else are
        removed, the others lose that `listen`. What they were is in the backups.
        """
        port = json_object(request).get("port")
        if isinstance(port, bool) or not isinstance(port, int) or not 0 < port < 65536:
            raise ApiError(400, "port must be a whole number from 1 to 65535")
        found: list[Clearance] = []

        def compute(layout: Layout) -> Mapping[Path, bytes | None]:
            found.append(clearance(layout, port))
            return found[-1].contents

        with _problems("port"):
            outcome = await self.apply.change(compute)
        return {
            "success": True,
            "removed": found[-1].removed,
            "files": [str(path) for path in found[-1].contents],
            "reloaded": outcome.reloaded,
            "backups": [str(path) for path in outcome.backups],
        }

    async def _layout(self) -> Layout:
        with _problems("path"):
            return await self.apply.find()

    async def _read(self, name: str | None, field: str) -> tuple[str, str]:
        layout = await self._layout()
        with _problems(field):
            found: tuple[str, str] = await self.in_thread(_read, layout, name or str(layout.main))
        return found

    async def _write(self, name: str | None, field: str, content: bytes) -> dict[str, Any]:
        paths: list[Path] = []

        def compute(layout: Layout) -> Mapping[Path, bytes | None]:
            paths.append(layout.places().editable(name if name is not None else str(layout.main)))
            return {paths[-1]: content}

        with _problems(field):
            outcome = await self.apply.change(compute)
        return _told(str(paths[-1]), outcome)


@contextmanager
def _problems(field: str) -> Iterator[None]:
    """Turn what may be wrong into ApiError; a ValueError is about the value of `field`."""
    try:
        yield
    except FileNotFoundError as problem:
        raise ApiError(404, f"there is no file {problem.filename}") from problem
    except OSError as problem:
        raise ApiError(507, f"{problem.filename}: {problem.strerror}") from problem
    except ValueError as problem:
        raise ApiError(400, f"{field}: {problem}") from problem
    except Busy as problem:
        raise ApiError(409, f"{problem}; nothing was changed") from problem
    except Refused as problem:
        raise ApiError(422, f"nginx refuses it: {problem}; nothing was changed") from problem
    except ServiceFailed as problem:
        raise ApiError(502, f"{problem}; the old files are back") from problem
    except NotInstalled as problem:
        raise ApiError(503, str(problem)) from problem
    except NotWritten as problem:
        raise ApiError(507, str(problem)) from problem


def _read(layout: Layout, name: str) -> tuple[str, str]:
    path = layout.places().editable(name)
    return str(path), read_text(path)


def _told(path: str, outcome: Outcome) -> dict[str, Any]:
    return {
        "success": True,
        "path": path,
        "changed": outcome.changed,
        "reloaded": outcome.reloaded,
        "backups": [str(backup) for backup in outcome.backups],
        "message": _message(outcome),
    }


def _message(outcome: Outcome) -> str:
    if not outcome.changed:
        return "it was so already; nothing was changed"
    if outcome.reloaded:
        return "saved, and nginx runs with it"
    return "saved; nginx does not run and finds it at its next start"


def _shown(file: ConfigFile) -> dict[str, Any]:
    return {
        "name": file.name,
        "path": str(file.path),
        "size": file.size,
        "mod_time": f"{file.modified:%Y-%m-%dT%H:%M:%SZ}",
    }


def _query(request: Request, name: str) -> str | None:
    values: list[bytes] = (request.args or {}).get(name.encode("ascii"), [])
    try:
        return values[-1].decode("utf-8") if values and values[-1] else None
    except UnicodeDecodeError:
        raise ApiError(400, f"{name} must be UTF-8") from None


def _text(body: Mapping[str, Any], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str) or not value:
        raise ApiError(400, f"{name} must be a text that is not empty")
    return value


def _domain(body: Mapping[str, Any]) -> str:
    try:
        return host_name(_text(body, "domain").strip())
    except NoHostName as problem:
        raise ApiError(400, f"domain: {problem}") from None


def _optional_content(body: Mapping[str, Any], name: str) -> str | None:
    if body.get(name) is None:
        return None
    _content(body, name)
    return _text(body, name)


def _content(body: Mapping[str, Any], name: str) -> bytes:
    value = body.get(name)
    if not isinstance(value, str):
        raise ApiError(400, f"{name} must be the whole text of the file")
    try:
        data = as_bytes(value)
    except UnicodeEncodeError:
        raise ApiError(400, f"{name} holds half of a surrogate pair") from None
    if b"\0" in data:
        raise ApiError(400, f"{name} must not hold NUL")
    if len(data) > LARGEST_FILE:
        raise ApiError(413, f"{name} is larger than {LARGEST_FILE // 2**20} MiB")
    return data
