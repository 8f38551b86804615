"""The one way a configuration of Xray changes: checked, kept, written, in force, or put back."""

from __future__ import annotations

import os
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, TypeVar

from attrs import define, field, frozen
from twisted.internet.defer import Deferred, DeferredLock
from twisted.python.failure import Failure

from mmwagent.host.backups import Backups
from mmwagent.host.files import write_atomically
from mmwagent.host.paths import read_regular
from mmwagent.host.service import Busy, NotInstalled, Refused
from mmwagent.logs import logger
from mmwagent.xray.discovery import MAX_BYTES as MAX_READ
from mmwagent.xray.document import Document, InvalidDocument, has_comments, parse, to_text
from mmwagent.xray.inspection import XrayNow

__all__ = [
    "MAX_BYTES",
    "Busy",
    "NotInstalled",
    "NotWritten",
    "Outcome",
    "Refused",
    "TooLarge",
    "XrayApply",
]

log = logger()

MAX_BYTES = 8 * 1024 * 1024
"""The largest configuration that is written."""

NOW, NEXT_START = "now", "next start"

# What `write_atomically` leaves behind when it is killed. Each name is the file's, a dot before
# it, and eight random letters after it.
_LEFT_BEHIND = "[a-z0-9_]{8}"

T = TypeVar("T")
Change = Callable[[Document], Document]


class TooLarge(Exception):
    """A configuration over MAX_BYTES; str() says so."""


class NotWritten(Exception):
    """The system did not let a file be read, kept or written; str() says which and why."""


class Check(Protocol):
    """What XrayCheck.check does."""

    def __call__(
        self, path: Path, text: str, *, certificates_may_follow: bool
    ) -> Awaitable[tuple[str, ...]]:
        """Raise Refused or NotInstalled; return the certificate files that are to follow."""


@frozen
class Outcome:
    """
    What became of a change.

    `backup` is the copy of the old content, None where there was none or nothing has changed.
    `applied_at` is "now" where the running Xray has the content, "next start" where it will only
    have it then. `missing` are certificate files that must come before Xray can start with it.
    `lost_comments` says that the old file held comments which the new one has no more.
    """

    path: Path
    changed: bool
    backup: Path | None = None
    restarted: bool = False
    applied_at: str = NEXT_START
    missing: tuple[str, ...] = ()
    lost_comments: bool = False


@frozen
class _Plan:
    """The content of a file, before (None: no file) and after."""

    old: bytes | None
    new: bytes
    lost_comments: bool

    @property
    def changed(self) -> bool:
        return self.new != self.old


@define
class XrayApply:
    """
    Changes Xray's configuration files, one change at a time.

    `check` asks Xray, `inspect` tells what runs, `restart` restarts it and returns once it is
    seen alive, or raises. A change that has begun goes on to its end, be it that whoever asked
    for it goes away: half of one is never left.
    """

    check: Check
    inspect: Callable[[], Awaitable[XrayNow]]
    restart: Callable[[], Awaitable[object]]
    backups: Backups
    in_thread: Callable[..., Deferred[Any]]
    _turn: DeferredLock = field(factory=DeferredLock, init=False, repr=False)
    # Content that Xray has not read yet, with the processes that ran when it was written.
    _waiting: dict[Path, tuple[object, ...]] = field(factory=dict, init=False, repr=False)

    async def write(
        self,
        path: Path,
        new: str | Document,
        *,
        restart: bool,
        certificates_may_follow: bool = False,
    ) -> Outcome:
        """
        Make `new` the content of the file `path`, a real path.

        A text is written as it is, with its comments; a document by `to_text`, without. Xray is
        restarted if `restart` says so, it runs, and something has changed; if it then does not
        come up, the old content is put back and Xray restarted with it.

        Raises, all with the old content in place: InvalidDocument, TooLarge, Refused with Xray's
        words, NotInstalled (nobody could check it), Busy (something is being done with Xray
        already), NotWritten. Refused says it, too, where the old state could not be had back.
        """

        def plan(old: bytes | None) -> _Plan:
            return _planned(old, new)

        return await self._begin(path, plan, restart, certificates_may_follow)

    async def edit(self, path: Path, change: Change, *, restart: bool) -> Outcome:
        """
        Replace the content of `path` by what `change` makes of it, else as `write` does.

        `change` runs in a thread, must not alter what it is given, and may raise; a file that is
        missing is given as an empty configuration. Where it changes nothing the file stays as it
        is. Where it does, the comments of the file are lost: `lost_comments` says so.
        """

        def plan(old: bytes | None) -> _Plan:
            return _edited(old, change)

        return await self._begin(path, plan, restart, False)

    def _begin(
        self, path: Path, plan: Callable[[bytes | None], _Plan], restart: bool, may_follow: bool
    ) -> Deferred[Outcome]:
        return _to_its_end(
            self._turn.run(
                lambda: Deferred.fromCoroutine(self._carry_out(path, plan, restart, may_follow))
            )
        )

    async def _carry_out(
        self, path: Path, make: Callable[[bytes | None], _Plan], restart: bool, may_follow: bool
    ) -> Outcome:
        old = await self._with_files("read", path, _read, path)
        plan: _Plan = await self.in_thread(make, old)
        xray = await self.inspect()
        if not plan.changed:
            return Outcome(path, changed=False, applied_at=self._in_force(path, xray))
        text = plan.new.decode("utf-8")
        missing = await self.check(path, text, certificates_may_follow=may_follow)
        backup = None
        if plan.old is not None:
            backup = await self._with_files("back up", path, self.backups.keep, path, plan.old)
        await self._with_files("write", path, _write, path, plan.new)
        log.info("Xray configuration {path} written", path=str(path))
        if restart and xray.processes and not missing:
            await self._restart(path, plan.old, backup)
            applied_at = NOW
        else:
            self._waiting[path] = _running(xray)
            applied_at = NEXT_START
        return Outcome(
            path=path,
            changed=True,
            backup=backup,
            restarted=applied_at == NOW,
            applied_at=applied_at,
            missing=missing,
            lost_comments=plan.lost_comments,
        )

    def _in_force(self, path: Path, xray: XrayNow) -> str:
        running = _running(xray)
        return NOW if running and self._waiting.get(path) != running else NEXT_START

    async def _restart(self, path: Path, old: bytes | None, backup: Path | None) -> None:
        try:
            await self.restart()
        except (Busy, NotInstalled, Refused) as problem:  # the old Xray still runs
            await self._put_back(path, old, backup, problem)
            raise type(problem)(f"{problem}; the old configuration is back") from problem
        except Exception as problem:
            await self._put_back(path, old, backup, problem)
            raise await self._started_again(path, problem) from problem

    async def _put_back(
        self, path: Path, old: bytes | None, backup: Path | None, problem: Exception
    ) -> None:
        try:
            await self.in_thread(_restore, path, old)
        except OSError as error:
            kept = f", it is kept in {backup}" if backup is not None else ""
            words = (
                f"{_words(problem)}; the old configuration could not be put back "
                f"({error.strerror}){kept}"
            )
            log.error("{path}: {words}", path=str(path), words=words)
            raise Refused(words) from problem
        log.warn(
            "{path}: the old configuration is back, for {reason}",
            path=str(path),
            reason=_words(problem),
        )

    async def _started_again(self, path: Path, problem: Exception) -> Refused:
        """Start Xray with the old configuration, and return what there is to say."""
        words = f"Xray does not run with it: {_words(problem)}; the old configuration is back"
        try:
            await self.restart()
        except Exception as again:
            log.error(
                "{path}: Xray does not start with its old configuration either: {reason}",
                path=str(path),
                reason=_words(again),
            )
            return Refused(f"{words}, but Xray does not start with it either: {_words(again)}")
        return Refused(f"{words}, and Xray runs with it")

    async def _with_files(
        self, verb: str, path: Path, function: Callable[..., Any], *arguments: object
    ) -> Any:
        try:
            return await self.in_thread(function, *arguments)
        except OSError as error:
            raise NotWritten(f"cannot {verb} {path}: {error.strerror}; it is as it was") from error


def _planned(old: bytes | None, new: str | Document) -> _Plan:
    if not isinstance(new, str):
        return _Plan(old, _encoded(to_text(new)), lost_comments=_holds_comments(old))
    data = _encoded(new)
    parse(new)
    return _Plan(old, data, lost_comments=False)


def _edited(old: bytes | None, change: Change) -> _Plan:
    before = parse(_text(old)) if old is not None else {}
    after = change(before)
    if old is not None and after == before:
        return _Plan(old, old, lost_comments=False)
    return _Plan(old, _encoded(to_text(after)), lost_comments=_holds_comments(old))


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidDocument(f"the file is no text in UTF-8: {error.reason}") from None


def _encoded(text: str) -> bytes:
    try:
        data = text.encode("utf-8")
    except UnicodeEncodeError:
        raise InvalidDocument("half of a surrogate pair cannot be written in UTF-8") from None
    if len(data) > MAX_BYTES:
        raise TooLarge(f"the configuration is larger than {MAX_BYTES // 2**20} MiB")
    return data


def _holds_comments(data: bytes | None) -> bool:
    return data is not None and has_comments(data.decode("utf-8", "replace"))


def _read(path: Path) -> bytes | None:
    try:
        return read_regular(path, MAX_READ)
    except FileNotFoundError:
        return None
    except ValueError as problem:
        raise InvalidDocument(str(problem)) from None


def _write(path: Path, data: bytes) -> None:
    _sweep(path)
    write_atomically(path, data)


def _sweep(path: Path) -> None:
    """Remove what was left beside `path` when a writer was killed: it holds keys."""
    name = re.compile(re.escape(f".{path.name}.") + _LEFT_BEHIND)
    with suppress(OSError):
        for entry in os.scandir(path.parent):
            if name.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                os.unlink(entry)


def _restore(path: Path, old: bytes | None) -> None:
    if old is None:
        path.unlink(missing_ok=True)
    else:
        write_atomically(path, old)


def _running(xray: XrayNow) -> tuple[object, ...]:
    return tuple((process.pid, process.started) for process in xray.processes)


def _words(problem: Exception) -> str:
    return str(problem) or type(problem).__name__


def _to_its_end(work: Deferred[T]) -> Deferred[T]:
    """Return the result of `work`, which goes on when the Deferred returned is cancelled."""
    watched: Deferred[T] = Deferred()

    def failed(failure: Failure) -> None:
        if watched.called:
            log.warn(
                "a change that nobody waits for any more failed: {reason}",
                reason=failure.getErrorMessage(),
            )
        watched.errback(failure)

    work.addCallbacks(watched.callback, failed)
    return watched
