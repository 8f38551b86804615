"""
Run a command of this machine: with a deadline, line by line, never blocking.

Children are started by `spawnProcess` without directory, user, group or terminal. Newer
Twisted then uses posix_spawn instead of a fork, which is unsafe beside threads.

Deadline and cancellation end the child itself, with SIGTERM and then SIGKILL. What the child has
started is not signalled: Twisted gives a child no process group of its own, and the agent's
would be hit too. Most tools pass the end on; a command that does not can be run under `setsid`
or `timeout`. Whatever a grandchild does, it never keeps the caller waiting.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol, cast

from attrs import frozen
from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.interfaces import IDelayedCall, IProcessProtocol, IProcessTransport
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from mmwagent.logs import logger

log = logger()

OUTPUT_LIMIT = 1024 * 1024
"""Bytes kept of each of the two outputs."""

LINE_LIMIT = 64 * 1024
"""Bytes of the longest line given in one piece."""

KILL_AFTER = 2.0
"""Seconds between SIGTERM and SIGKILL, and from there until the child is given up."""

# After the exit of the child its pipes are read until they end, or until they were silent for two
# ticks: others hold them then. One would not do, it may come before the reactor could read. What
# a talkative grandchild writes is read for 10 ticks.
_TICK = 0.2
_SILENT_TICKS = 2
_MOST_TICKS = 10

_SYSTEM_DIRECTORIES = (
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
)


class CommandNotFound(Exception):
    """There is no such executable file; the text names it."""


class CommandNotStarted(Exception):
    """The system refused to start the command; the text says why."""


@frozen
class Finished:
    """
    How a command ended.

    `status` is its exit status, None if a signal ended it; `signal` is that signal's number. If
    not even SIGKILL ended it in time (it hangs in the kernel) that is the signal told.
    `timed_out` says that the time was over, whatever the command made of the end.
    """

    status: int | None
    signal: int | None
    output: bytes
    errors: bytes
    timed_out: bool

    @property
    def succeeded(self) -> bool:
        """Whether the command ended by itself with status 0."""
        return self.status == 0 and not self.timed_out


class CommandReactor(Protocol):
    """What of a reactor is needed: IReactorTime and IReactorProcess in part."""

    def callLater(self, delay: float, function: Callable[[], object], /) -> IDelayedCall:
        """Call `function` after `delay` seconds."""

    def spawnProcess(
        self,
        protocol: IProcessProtocol,
        executable: bytes | str,
        args: Sequence[bytes | str],
        env: Mapping[str, str] | None,
        /,
    ) -> IProcessTransport:
        """Start a child."""


def find_executable(
    name: str, extra_directories: Iterable[str] = (), search_path: str | None = None
) -> str | None:
    """
    Return the absolute path of the executable file `name`, or None.

    Looked for in `search_path` (as PATH is written; the agent's own by default), then in
    `extra_directories`, then where systems keep their tools, since a service's PATH often lacks
    the sbin directories. A name with a slash is a path and is not searched for.
    """
    if "/" in name:
        return os.path.abspath(name) if _is_executable(name) else None
    if search_path is None:
        search_path = os.environ.get("PATH", "")
    # An empty or relative entry would mean wherever the agent happens to stand.
    absolute = [entry for entry in search_path.split(":") if entry.startswith("/")]
    for directory in (*absolute, *extra_directories, *_SYSTEM_DIRECTORIES):
        path = os.path.join(directory, name)
        if _is_executable(path):
            return path
    return None


def _is_executable(path: str) -> bool:
    return os.path.isfile(path) and os.access(path, os.X_OK)


def run(
    reactor: CommandReactor,
    argv: Sequence[str],
    *,
    timeout: float,
    env: Mapping[str, str] | None = None,
    stdin: bytes = b"",
    limit: int = OUTPUT_LIMIT,
    on_line: Callable[[bytes], None] | None = None,
) -> Deferred[Finished]:
    """
    Run `argv` for at most `timeout` seconds and return how it ended.

    `env` is the child's whole environment, by default the agent's. `stdin` is written to it and
    closed. Of each output the first `limit` bytes are kept, the rest is read and dropped.
    `on_line` gets each line of both outputs as it comes, without its end; one longer than
    LINE_LIMIT comes in pieces, and a last one without end comes too.

    Fails with CommandNotFound or CommandNotStarted. A command that ends badly is no failure.
    Cancelling ends the child, as the deadline does, and calls `on_line` no more.
    """
    if not argv:
        return fail(CommandNotStarted("cannot start a command without a name"))
    executable = find_executable(argv[0], search_path=None if env is None else env.get("PATH"))
    if executable is None:
        return fail(CommandNotFound(f"no executable file {argv[0]!r} on this machine"))
    child = _Child(reactor, timeout, stdin, limit, on_line)
    try:
        reactor.spawnProcess(_Pipes(child), executable, list(argv), env)
    except (OSError, TypeError, ValueError) as error:
        return fail(CommandNotStarted(f"cannot start {executable}: {error}"))
    return child.finished


class _Lines:
    """Cuts a stream of bytes into lines."""

    def __init__(self, give: Callable[[bytes], None]) -> None:
        self._give = give
        self._rest = bytearray()

    def add(self, data: bytes) -> None:
        self._rest += data
        if b"\n" in data:
            *lines, self._rest = self._rest.split(b"\n")
            for line in lines:
                self._give_pieces(line)
                self._give(bytes(line.removesuffix(b"\r")))
        self._give_pieces(self._rest)

    def end(self) -> None:
        if self._rest:
            self._give(bytes(self._rest))

    def _give_pieces(self, line: bytearray) -> None:
        """Give from the front of a line that is too long, so that a piece is left to come."""
        while len(line) > LINE_LIMIT:
            self._give(bytes(line[:LINE_LIMIT]))
            del line[:LINE_LIMIT]


class _Output:
    """What a child has written to one of its outputs."""

    def __init__(self, limit: int, lines: _Lines | None) -> None:
        self._limit = limit
        self._kept = bytearray()
        self._lines = lines

    def add(self, data: bytes) -> None:
        self._kept += data[: self._limit - len(self._kept)]
        if self._lines is not None:
            self._lines.add(data)

    def end(self) -> None:
        if self._lines is not None:
            self._lines.end()

    def kept(self) -> bytes:
        return bytes(self._kept)


class _Child:
    """
    A running child, its deadline and its end.

    One timer at a time: first the deadline, then the way from SIGTERM to giving up, and once the
    child has exited the wait for the rest of its output.
    """

    def __init__(
        self,
        reactor: CommandReactor,
        timeout: float,
        stdin: bytes,
        limit: int,
        on_line: Callable[[bytes], None] | None,
    ) -> None:
        self.finished: Deferred[Finished] = Deferred(lambda _: self._cancelled())
        self._reactor = reactor
        self._timeout = timeout
        self._stdin = stdin
        self._on_line = on_line
        self._outputs = {
            fd: _Output(limit, None if on_line is None else _Lines(self._give)) for fd in (1, 2)
        }
        self._transport: IProcessTransport | None = None
        self._timer: IDelayedCall | None = None
        self._timed_out = False
        self._ending = False  # exited, or on the way there
        self._over = False
        self._status: tuple[int | None, int | None] = (None, int(signal.SIGKILL))
        self._ticks = self._silent_ticks = 0

    def started(self, transport: IProcessTransport) -> None:
        self._transport = transport
        self._after(self._timeout, self._deadline)
        if self._stdin:
            transport.writeToChild(0, self._stdin)
        transport.closeStdin()

    def received(self, fd: int, data: bytes) -> None:
        if not self._over:
            self._silent_ticks = 0
            self._outputs[fd].add(data)

    def exited(self, reason: Failure) -> None:
        """Wait for the rest of the output, but not for grandchildren that hold the pipes."""
        self._status = (_number(reason, "exitCode"), _number(reason, "signal"))
        self._ending = True
        if not self._over:
            self._after(_TICK, self._tick)

    def ended(self) -> None:
        """Child and pipes are at their end."""
        self._finish()

    def _deadline(self) -> None:
        self._timed_out = True
        self._terminate()

    def _cancelled(self) -> None:
        self._on_line = None
        self._terminate()

    def _terminate(self) -> None:
        if not self._ending:
            self._ending = True
            self._signal("TERM")
            self._after(KILL_AFTER, self._kill)

    def _kill(self) -> None:
        self._signal("KILL")
        self._after(KILL_AFTER, self._finish)

    def _signal(self, name: str) -> None:
        try:
            if self._transport is not None:
                self._transport.signalProcess(name)
        except (ProcessExitedAlready, OSError):
            pass  # on its way out, or not ours to signal: the timer goes on either way

    def _tick(self) -> None:
        self._ticks += 1
        self._silent_ticks += 1
        if self._silent_ticks >= _SILENT_TICKS or self._ticks >= _MOST_TICKS:
            self._finish()
        else:
            self._after(_TICK, self._tick)

    def _finish(self) -> None:
        if self._over:
            return
        for output in self._outputs.values():
            output.end()
        self._over = True
        self._after(None)
        if self._transport is not None:
            self._transport.loseConnection()
        if not self.finished.called:
            self.finished.callback(self._result())

    def _result(self) -> Finished:
        status, number = self._status
        return Finished(
            status=status,
            signal=number,
            output=self._outputs[1].kept(),
            errors=self._outputs[2].kept(),
            timed_out=self._timed_out,
        )

    def _give(self, line: bytes) -> None:
        if self._on_line is None:
            return
        try:
            self._on_line(line)
        except Exception:
            self._on_line = None
            log.failure("the reader of a command's lines failed, it gets no more of them")

    def _after(self, delay: float | None, function: Callable[[], None] = lambda: None) -> None:
        """Set the one timer, or clear it."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None if delay is None else self._reactor.callLater(delay, function)


def _number(reason: Failure, name: str) -> int | None:
    value = getattr(reason.value, name, None)
    return value if value is None else int(value)


class _Pipes(ProcessProtocol):
    """Tells a child's events to `_Child`."""

    def __init__(self, child: _Child) -> None:
        self._child = child

    def connectionMade(self) -> None:
        self._child.started(cast(IProcessTransport, self.transport))

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        self._child.received(childFD, data)

    def processExited(self, reason: Failure) -> None:
        self._child.exited(reason)

    def processEnded(self, reason: Failure) -> None:
        self._child.ended()
