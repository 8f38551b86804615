"""
Xray's configuration (README, Xray 管理 and 扫描与探测; the master's calls 6 to 8 and 16).

What is written is checked by Xray itself first, and the old content is kept. The master writes by
POST and restarts Xray by itself when it has sent all that belongs together; so a POST is in force
at the next start, while a PUT, the README's verb, restarts a running Xray at once. A body may say
`"restart": true` or `false` to have it the other way.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from attrs import define, frozen
from twisted.internet.defer import Deferred
from twisted.web.http import Request

from mmwagent.host.paths import read_regular
from mmwagent.host.ports import NoFreePort
from mmwagent.host.programs import Program
from mmwagent.manage.errors import ApiError
from mmwagent.xray.apply import (
    NOW,
    Busy,
    NotInstalled,
    NotWritten,
    Outcome,
    Refused,
    TooLarge,
    XrayApply,
)
from mmwagent.xray.completion import FreePort, complete
from mmwagent.xray.discovery import MAX_BYTES
from mmwagent.xray.document import (
    Document,
    InvalidDocument,
    parse,
    user_inbounds,
    without_private_keys,
)
from mmwagent.xray.inspection import XrayNow
from mmwagent.xray.places import NoSuchFile, Places
from mmwagent.xray.switches import PortTaken, Wanted, switched, switches

_SECTIONS = frozenset(
    {
        "api",
        "burstObservatory",
        "dns",
        "env",
        "fakedns",
        "geodata",
        "inbounds",
        "log",
        "metrics",
        "observatory",
        "outbounds",
        "policy",
        "reverse",
        "routing",
        "stats",
        "transport",
        "version",
    }
)
"""What stands at the top of a configuration, by which a bare one is known."""

_LOST_COMMENTS = "the file held comments, which were lost; the backup has them"


@define
class XrayResource:
    """
    Reads and writes Xray's configuration.

    `inspect` tells what Xray there is, `free_port` finds a port for what a scan adds (it may
    block), `in_thread` runs what blocks.
    """

    places: Places
    inspect: Callable[[], Awaitable[XrayNow]]
    xray: Program
    apply: XrayApply
    free_port: FreePort
    in_thread: Callable[..., Deferred[Any]]

    async def config(self, request: Request) -> dict[str, Any]:
        """GET xray/config, ?path= -> {"path": str, "config": the text of the file}."""
        with _answered():
            path = await self._main(_query(request, "path"))
            return {"success": True, "path": str(path), "config": await self._text(path)}

    async def put_config(self, request: Request) -> dict[str, Any]:
        """
        PUT and POST xray/config: {"config": str|object, "path"?, "restart"?}.

        Or a bare Xray object. A text is written as it is, with its comments; an object without
        any. What is not for now (`restart` is false) may name certificates that are still to
        come: the answer lists them under `missing`.
        """
        asked = _to_write(_body(request), request, "config", "path")
        with _answered("config"):
            path = await self._main(asked.name, to_write=True)
            outcome = await self.apply.write(
                path,
                asked.content,
                restart=asked.restart,
                certificates_may_follow=not asked.restart,
            )
        return _told(outcome)

    async def files(self, request: Request) -> dict[str, Any]:
        """
        GET xray/config/files -> {"base_dir": str, "files": [{name, path, size, mod_time}]}.

        ?file=NAME gives one instead: {"name", "path", "content": str}. A name is relative to
        `base_dir`, or absolute.
        """
        name = _query(request, "file") or _query(request, "path")
        with _answered():
            if name:
                path = await self._file(name)
                content = await self._text(path)
                return {"success": True, "name": name, "path": str(path), "content": content}
            base, listed = await self.in_thread(self._list)
        return {"success": True, "base_dir": base, "files": listed}

    async def put_file(self, request: Request) -> dict[str, Any]:
        """
        PUT and POST xray/config/files: {"file": str, "content": str|object, "restart"?}.

        The file may be given as ?file= as well. Xray has to take it by itself, and is restarted
        as by `put_config`, if the file is one that it is known to read.
        """
        body = _body(request)
        if "file" not in body and "path" not in body:
            body = {**body, "file": _query(request, "file")}
        asked = _to_write(body, request, "content", "file")
        if not asked.name:
            raise ApiError(400, "file is missing: which one is to be written")
        with _answered("content"):
            path = await self._file(asked.name, to_write=True)
            restart = asked.restart and await self.in_thread(self.places.is_main, path)
            outcome = await self.apply.write(path, asked.content, restart=restart)
        return _told(outcome)

    async def system_config(self, request: Request) -> dict[str, Any]:
        """
        GET xray/system-config: the switches under `config`, and where things are.

        `config` is {"metrics_enabled": bool, "metrics_listen": "host:port", "stats_enabled": bool,
        "grpc_enabled": bool, "grpc_port": int}; beside it stand `config_path`, `config_dir`,
        `binary_path` ("" where there is none) and `backup_dir`.
        """
        with _answered():
            path = await self._main(_query(request, "path"))
            document = parse(await self._text(path))
        xray = await self.inspect()
        return {
            "success": True,
            "config": switches(document).fields(),
            "path": str(path),
            "config_path": str(path),
            "config_dir": str(path.parent),
            "binary_path": self.xray.binary(xray.processes) or "",
            "backup_dir": str(self.apply.backups.directory),
        }

    async def put_system_config(self, request: Request) -> dict[str, Any]:
        """
        POST xray/system-config: any of the switches; what is not named stays as it is.

        A running Xray is restarted, if that changes something. The answer is as that of a GET,
        with what became of it.
        """
        body = _body(request)
        with _answered():
            wanted = Wanted.of(body)
            if wanted.nothing():
                raise ApiError(400, "none of the switches is named, as metrics_enabled")
            path = await self._main(_path_in(body))
            restart = _restart_in(body, default=True)

            def change(document: Document) -> Document:
                return switched(document, wanted, self.free_port)

            outcome = await self.apply.edit(path, change, restart=restart)
            document = parse(await self._text(path))
        return {**_told(outcome), "config": switches(document).fields()}

    async def scan(self, request: Request) -> dict[str, Any]:
        """
        POST scan: add to the configuration what it lacks, and tell what Xray there is.

        The answer is {"xray_running", "xray_version", "inbounds": without private keys, "added":
        [what was], "restarted": bool, "path"}. A second scan adds nothing.
        """
        body = _body(request, may_be_empty=True)
        with _answered():
            completed = await self._complete(_path_in(body))
        xray = await self.inspect()
        state = await self.xray.state(xray.processes)
        inbounds = [
            without_private_keys(inbound)
            for server in xray.servers
            for inbound in user_inbounds(server.document)
        ]
        return {
            "success": True,
            "xray_running": state.running,
            "xray_version": state.version or "",
            "inbounds": inbounds,
            **completed,
        }

    async def _complete(self, named: str | None) -> dict[str, Any]:
        nothing = {"added": [], "changed": False, "restarted": False}
        try:
            path = await self._main(named)
        except NoSuchFile as none:
            if named is not None:
                raise
            return {**nothing, "path": "", "message": str(none)}
        added: list[str] = []

        def change(document: Document) -> Document:
            document, names = complete(document, self.free_port)
            added[:] = names
            return document

        try:
            outcome = await self.apply.edit(path, change, restart=True)
        except NotInstalled as problem:  # there is no harm in what is lacking then
            return {**nothing, "path": str(path), "warning": f"{problem}; nothing was added"}
        return {"added": added, **_told(outcome)}

    async def _main(self, path: str | None, *, to_write: bool = False) -> Path:
        with _named("path"):
            main: Path = await self.in_thread(self.places.main, path, to_write=to_write)
        return main

    async def _file(self, name: str, *, to_write: bool = False) -> Path:
        with _named("file"):
            file: Path = await self.in_thread(self.places.file, name, to_write=to_write)
        return file

    async def _text(self, path: Path) -> str:
        try:
            data: bytes = await self.in_thread(read_regular, path, MAX_BYTES)
        except FileNotFoundError:
            raise NoSuchFile(f"there is no file {path}") from None
        except OSError as error:
            raise NotWritten(f"cannot read {path}: {error.strerror}") from error
        try:
            return data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise InvalidDocument(f"{path}: no text in UTF-8: {error.reason}") from None

    def _list(self) -> tuple[str, list[dict[str, Any]]]:
        base = self.places.base()
        listed = [
            {
                "name": file.name,
                "path": str(file.path),
                "size": file.size,
                "mod_time": f"{datetime.fromtimestamp(int(file.modified), UTC):%FT%TZ}",
            }
            for file in self.places.listed()
        ]
        return str(base or ""), listed


@frozen
class _ToWrite:
    """What a body asks to be written: into which file, and whether Xray is to have it at once."""

    name: str | None
    content: str | Document
    restart: bool


def _to_write(body: Document, request: Request, content: str, name: str) -> _ToWrite:
    """Read a body {content, name?, restart?}, or a bare configuration where no name is needed."""
    restart = _restart_in(body, default=request.method == b"PUT")
    if content not in body:
        if name == "path" and _SECTIONS.intersection(body):
            return _ToWrite(None, body, request.method == b"PUT")
        raise ApiError(400, f"{content} is missing: what is to be written, as a text")
    value = body[content]
    if not isinstance(value, str | dict):
        raise ApiError(400, f"{content} must be a text that holds the JSON, or a JSON object")
    named = body.get(name) or body.get("path") or None
    if not isinstance(named, str | None):
        raise ApiError(400, f"{name} must be a text")
    return _ToWrite(named, value, restart)


def _restart_in(body: Mapping[str, Any], *, default: bool) -> bool:
    restart = body.get("restart")
    if not isinstance(restart, bool | None):
        raise ApiError(400, "restart must be true or false")
    return default if restart is None else restart


def _path_in(body: Mapping[str, Any]) -> str | None:
    path = body.get("path")
    if not isinstance(path, str | None):
        raise ApiError(400, "path must be a text")
    return path or None


def _body(request: Request, *, may_be_empty: bool = False) -> Document:
    """Return the JSON object in the body, with its numbers as they were written."""
    content = request.content
    data = content.read() if content is not None else b""
    if may_be_empty and not data.strip():
        return {}
    try:
        return parse(data.decode("utf-8"))
    except UnicodeDecodeError:
        raise ApiError(400, "the body is no text in UTF-8") from None
    except InvalidDocument as problem:
        words = str(problem).replace("the configuration", "the body")
        raise ApiError(400, f"the body: {words}") from None


def _query(request: Request, name: str) -> str | None:
    """Return the query's value of `name`, None where there is none or an empty one."""
    values = (request.args or {}).get(name.encode("ascii"), [])
    if len(values) > 1:
        raise ApiError(400, f"{name} must be given once")
    try:
        return values[0].decode("utf-8") or None if values else None
    except UnicodeDecodeError:
        raise ApiError(400, f"{name} is no text in UTF-8") from None


def _told(outcome: Outcome) -> dict[str, Any]:
    """Return what became of a change, as fields of an answer."""
    answer: dict[str, Any] = {
        "success": True,
        "path": str(outcome.path),
        "changed": outcome.changed,
        "restarted": outcome.restarted,
        "applied_at": outcome.applied_at,
        "backup": str(outcome.backup or ""),
        "message": _message(outcome),
    }
    warnings = [_LOST_COMMENTS] if outcome.lost_comments else []
    if outcome.missing:
        answer["missing"] = list(outcome.missing)
        names = ", ".join(outcome.missing)
        warnings.append(f"Xray cannot start with it before these files are there: {names}")
    return {**answer, "warning": "; ".join(warnings)} if warnings else answer


def _message(outcome: Outcome) -> str:
    if not outcome.changed:
        return "nothing has changed"
    if outcome.applied_at == NOW:
        return "written, and Xray runs with it"
    return "written, and in force when Xray is started the next time"


@contextmanager
def _named(field: str) -> Iterator[None]:
    """Answer what is wrong with a path by the field that held it."""
    try:
        yield
    except ValueError as problem:
        raise ApiError(400, f"{field}: {problem}") from problem


@contextmanager
def _answered(field: str = "") -> Iterator[None]:
    """Answer what goes wrong below with the status that it has; `field` held what was written."""
    try:
        yield
    except NoSuchFile as problem:
        raise ApiError(404, str(problem)) from problem
    except (Busy, PortTaken) as problem:
        raise ApiError(409, str(problem)) from problem
    except TooLarge as problem:
        raise ApiError(413, f"{field}: {problem}" if field else str(problem)) from problem
    except Refused as problem:
        raise ApiError(422, str(problem)) from problem
    except InvalidDocument as problem:
        # Sent to us it is a bad request; standing in the file it is not the request that is wrong.
        if field:
            raise ApiError(400, f"{field}: {problem}") from problem
        raise ApiError(422, f"the configuration there: {problem}") from problem
    except (NotInstalled, NotWritten, NoFreePort) as problem:
        raise ApiError(503, str(problem)) from problem
    except ValueError as problem:
        raise ApiError(400, str(problem)) from problem
