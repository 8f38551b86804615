"""
The one way nginx's files change: several at once, tested by nginx itself, taken over, or all back.

A change is made under a lock, backed up, written, tested with `nginx -t`, and where nginx runs it
is reloaded and watched until new workers show that it took the change over. If one of these fails
every file is as it was, and nginx too. Whoever asked may go away meanwhile: the change goes on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from attrs import define, field, frozen
from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from mmwagent.host.backups import Backups
from mmwagent.host.command import CommandNotFound, CommandNotStarted
from mmwagent.host.files import write_atomically
from mmwagent.host.processes import Process
from mmwagent.host.service import NotInstalled, Refused, RunCommand
from mmwagent.logs import logger
from mmwagent.nginx.errorlog import ErrorLog
from mmwagent.nginx.files import FileChange, NotWritten, Write, names
from mmwagent.nginx.layout import Layout, Layouts

log = logger()

TEST_DEADLINE = 15.0  # seconds; it resolves the names of upstreams
TAKEOVER_DEADLINE = 5.0  # seconds for a reload to show
TAKEOVER_LOOK = 0.1

_WORKER = "nginx: worker process"
_LONGEST_WORDS = 4000

T = TypeVar("T")

Contents = Mapping[Path, bytes | None]
Compute = Callable[[Layout], Contents]


class Control(Protocol):
    """What is needed of the services' control."""

    async def reload(self, service: str) -> None:
        """Have `service` read its configuration again."""


@frozen
class Outcome:
    """
    What became of a change.

    `changed` is False where the files were so already. `reloaded` is False where nginx does not
    run, then it finds the change at its next start, or where no reload was wanted.
    """

    changed: bool
    backups: tuple[Path, ...] = ()
    reloaded: bool = False


@define
class NginxApply:
    """
    Changes nginx's files.

    `find` gives the nginx of this machine, `processes` those of nginx that run now; `backups` are
    kept in a directory of the agent's own.
    """

    find: Layouts
    run: RunCommand
    control: Control
    processes: Callable[[], Awaitable[list[Process]]]
    in_thread: Callable[..., Deferred[Any]]
    clock: IReactorTime
    backups: Backups
    put: Write = write_atomically
    _lock: DeferredLock = field(factory=DeferredLock, init=False)

    def write(self, contents: Contents, *, reload: bool = True) -> Deferred[Outcome]:
        """Have the files as `contents` say, None for one that is to be gone; see `change`."""
        return self.change(lambda layout: contents, reload=reload)

    def change(self, compute: Compute, *, reload: bool = True) -> Deferred[Outcome]:
        """
        Have the files as `compute` says for the nginx that is here, with nobody else writing.

        `compute` runs in a thread. Fails with NotInstalled, Refused (nginx did not take it, in its
        own words), NotWritten (the file system did not), what `compute` raises and what the
        control raises; then all is as it was.
        """
        return _undisturbed(self._locked(partial(self._change, compute, reload)))

    async def check(self) -> None:
        """Have nginx test what stands in its files. Raises Refused or NotInstalled."""
        await self._test(await self.find())

    async def _locked(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        await self._lock.acquire()
        try:
            return await work()
        finally:
            self._lock.release()

    async def _change(self, compute: Compute, reload: bool) -> Outcome:
        layout = await self.find()
        layout.command()  # nothing is written that cannot be tested
        change = FileChange(await self.in_thread(compute, layout), self.put)
        if not await self.in_thread(change.differs):
            return Outcome(changed=False)
        backups = await self.in_thread(change.back_up, self.backups)
        errors = await self.in_thread(ErrorLog.of, layout)
        await self.in_thread(change.make)
        try:
            await self._test(layout)
            reloaded = reload and await self._reload(errors)
        except Exception as problem:
            await self._put_back(change, reload, problem)
            raise
        await self.in_thread(change.settle)
        log.info("{files} changed", files=names(change.contents))
        return Outcome(True, tuple(backups), reloaded)

    async def _test(self, layout: Layout) -> None:
        try:
            finished = await self.run(layout.command("-t", "-q"), timeout=TEST_DEADLINE)
        except (CommandNotFound, CommandNotStarted) as problem:
            raise NotInstalled(str(problem)) from problem
        if finished.succeeded:
            return
        if finished.timed_out:
            raise Refused(f"nginx -t was not done within {TEST_DEADLINE:.0f} s")
        words = (finished.errors or finished.output).decode("utf-8", "replace").strip()
        raise Refused(words[:_LONGEST_WORDS] or "nginx -t failed and said nothing")

    async def _reload(self, errors: ErrorLog) -> bool:
        """Reload nginx if it runs, and return whether. Raises Refused if it stays as it was."""
        before = await self.processes()
        if not before:
            return False
        await self.control.reload("nginx")
        old_workers = _workers(before)
        # Without workers it runs as one process, which shows nothing.
        if old_workers and not await self._taken_over(old_workers):
            said = await self.in_thread(errors.since)
            raise Refused(
                said[:_LONGEST_WORDS]
                or "nginx was told to reload and kept its old workers; its error log says why"
            )
        return True

    async def _taken_over(self, old_workers: frozenset[int]) -> bool:
        """Wait until there are new workers, and the old ones listen no more."""
        deadline = self.clock.seconds() + TAKEOVER_DEADLINE
        while True:
            workers = _workers(await self.processes())
            late = self.clock.seconds() >= deadline
            if late or (workers and not workers & old_workers):
                return bool(workers - old_workers)
            await deferLater(self.clock, TAKEOVER_LOOK)

    async def _put_back(self, change: FileChange, reload: bool, problem: Exception) -> None:
        """Bring everything back after `problem`, which is told by whoever asked."""
        log.info("{files} put back: nginx did not take the change", files=names(change.contents))
        try:
            await self.in_thread(change.put_back)
        except NotWritten as worse:
            raise NotWritten(f"{problem}; and {worse}") from problem
        workers = _workers(await self.processes())
        if reload and workers:
            # It may have taken the change over after all, only too late.
            try:
                await self.control.reload("nginx")
            except Exception as worse:
                log.warn("nginx was not reloaded with the old files: {why}", why=str(worse))
            else:
                await self._taken_over(workers)  # else the next change would take it for its own


def _workers(processes: list[Process]) -> frozenset[int]:
    """Return the workers that are not on their way out."""
    return frozenset(
        process.pid
        for process in processes
        if process.arguments and process.arguments[0].strip() == _WORKER
    )


def _undisturbed(work: Coroutine[Any, Any, T]) -> Deferred[T]:
    """Return the result of `work`, which goes on to its end even if the Deferred is cancelled."""
    asked: Deferred[T] = Deferred()

    def done(result: T | Failure) -> None:
        if not asked.called:
            asked.callback(result)
        elif isinstance(result, Failure):
            log.info("nobody waits any more, and it failed: {why}", why=result.getErrorMessage())

    Deferred.fromCoroutine(work).addBoth(done)
    return asked
