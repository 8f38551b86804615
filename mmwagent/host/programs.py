"""Programs that this agent looks after: whether they are here, run, and in which version."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence

from attrs import define, field, frozen
from twisted.internet.defer import Deferred

from mmwagent.host.command import CommandNotFound, CommandNotStarted, Finished, find_executable
from mmwagent.host.processes import Process
from mmwagent.logs import logger

log = logger()

VERSION_DEADLINE = 10.0  # seconds

RunCommand = Callable[..., Deferred[Finished]]


@frozen
class ProgramState:
    """What can be said of a program. `version` is None where it is not installed or not told."""

    installed: bool
    running: bool
    version: str | None


@define
class Program:
    """
    A program by its name, as `xray` or `nginx`.

    `directories` are where its binary may be besides PATH; that of a running process comes first.
    `run` runs a command: (argv, timeout) -> Deferred[Finished].
    """

    name: str
    version_arguments: Sequence[str]
    version_pattern: str
    directories: Sequence[str]
    run: RunCommand
    _known: dict[tuple[str, int, int], str | None] = field(factory=dict, init=False)

    async def state(self, processes: Sequence[Process]) -> ProgramState:
        """Return its state, `processes` being those of it that run."""
        binary = self.binary(processes)
        version = await self._version(binary) if binary else None
        return ProgramState(binary is not None, bool(processes), version)

    def binary(self, processes: Sequence[Process] = ()) -> str | None:
        """Return the path of its binary, None where there is none."""
        for process in processes:
            if os.access(process.executable, os.X_OK):
                return process.executable
        return find_executable(self.name, self.directories)

    async def _version(self, binary: str) -> str | None:
        """Ask the binary, once for each time that it is replaced."""
        try:
            stat = os.stat(binary)
        except OSError:
            return None
        key = (binary, stat.st_mtime_ns, stat.st_size)
        if key not in self._known:
            version = await self._ask(binary)
            if version is None:
                return None
            self._known = {key: version}
        return self._known[key]

    async def _ask(self, binary: str) -> str | None:
        try:
            finished = await self.run([binary, *self.version_arguments], timeout=VERSION_DEADLINE)
        except (CommandNotFound, CommandNotStarted) as problem:
            log.debug(
                "{binary} cannot be asked for its version: {problem}",
                binary=binary,
                problem=str(problem),
            )
            return None
        told = finished.output + finished.errors
        match = re.search(self.version_pattern, told.decode("utf-8", "replace"))
        if match is None:
            log.debug("{binary} does not tell its version", binary=binary)
            return None
        return match[1]


def xray(run: RunCommand) -> Program:
    """Return Xray: `xray version` begins with "Xray 26.3.27 (...)"."""
    return Program(
        "xray", ("version",), r"Xray (\S+)", ("/usr/local/bin", "/opt/xray", "/usr/bin"), run
    )


def nginx(run: RunCommand) -> Program:
    """Return nginx: `nginx -v` says "nginx version: nginx/1.22.1"."""
    return Program("nginx", ("-v",), r"nginx/(\S+)", ("/usr/local/nginx/sbin", "/usr/sbin"), run)
