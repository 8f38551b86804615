"""How Xray is started here, and whether it would start."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attrs import define
from twisted.internet.defer import Deferred

from mmwagent.host.command import CommandNotFound, CommandNotStarted, Finished
from mmwagent.host.launching import Launch, launch_of
from mmwagent.host.programs import Program, RunCommand
from mmwagent.host.service import NotInstalled, Refused
from mmwagent.xray.check import words_of
from mmwagent.xray.inspection import Inspection

CHECK_DEADLINE = 10.0  # seconds; with geo data it takes 50 ms

# Without a directory of its own a child is started without a fork.
_IN_DIRECTORY = ("/bin/sh", "-c", 'cd -- "$0" && exec "$@"')


@define
class XrayStart:
    """Tells by the Xray that runs, else by the configuration that is found first."""

    xray: Program
    inspection: Inspection
    run: RunCommand
    in_thread: Callable[..., Deferred[Any]]
    proc: Path = Path("/proc")

    async def launch(self) -> Launch | None:
        """Return how it is started. None where there is no program or no configuration."""
        found: Launch | None = await self.in_thread(self._launch)
        return found

    async def check(self) -> None:
        """
        Have it test what it would start with: `xray run -test`, with its own arguments.

        Raises Refused with its words, NotInstalled. Where no configuration is found there is
        nothing to test.
        """
        launch = await self.launch()
        if launch is None:
            return
        binary, *arguments = launch.argv
        if arguments[:1] == ["run"]:
            del arguments[0]
        argv = [*_IN_DIRECTORY, launch.directory, binary, "run", "-test", *arguments]
        try:
            finished: Finished = await self.run(
                argv, timeout=CHECK_DEADLINE, env=launch.whole_environment()
            )
        except (CommandNotFound, CommandNotStarted) as problem:
            raise NotInstalled(f"Xray cannot be asked: {problem}") from problem
        if not finished.succeeded:
            raise Refused(words_of(finished))

    def _launch(self) -> Launch | None:
        now = self.inspection.now()
        for process in now.processes:
            return launch_of(process, self.proc)
        binary = self.xray.binary()
        # A file that nobody can read as JSON counts as well: it is what Xray would refuse.
        paths = (os.path.realpath(path) for path in self.inspection.discovery.paths)
        path = next(filter(os.path.isfile, paths), None)
        if binary is None or path is None:
            return None
        return Launch((binary, "run", "-config", path), os.path.dirname(path))
