"""Which Xray runs here: the processes that serve the configurations we know of."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime

from attrs import define, frozen

from mmwagent.host.processes import Process, Processes
from mmwagent.xray.discovery import Discovery, XrayServer

NAME = "xray"

_FILE_FLAGS = ("c", "config")
_DIRECTORY_FLAGS = ("confdir",)
_DEFAULT_FILES = ("config.json", "config.jsonc")


@frozen
class XrayNow:
    """The Xray servers of this moment, and the processes that serve them."""

    servers: tuple[XrayServer, ...]
    processes: tuple[Process, ...]

    @property
    def started(self) -> datetime | None:
        """Return when Xray was started; of several, the one that has run longest."""
        return min((process.started for process in self.processes), default=None)

    @property
    def pid(self) -> int | None:
        """Return its process number, None where none runs or several do."""
        return self.processes[0].pid if len(self.processes) == 1 else None


@define
class Inspection:
    """Looks at files and processes together. Blocks: call it in a thread."""

    discovery: Discovery
    processes: Processes

    def now(self) -> XrayNow:
        """Return what there is now."""
        servers = self.discovery.look()
        paths = [server.config_path for server in servers]
        if not paths and self.discovery.configured:
            # None of the files named is there; an Xray that reads another one is not ours.
            paths = [os.path.realpath(path) for path in self.discovery.paths]
        return XrayNow(servers, tuple(serving(self.processes.named(NAME), paths)))


def serving(processes: Iterable[Process], config_paths: Sequence[str]) -> Iterator[Process]:
    """
    Give the processes that serve one of `config_paths`, which are real paths.

    A process that was told of other files is somebody else's. One of which it cannot be seen what
    it reads counts, and so does any where no configuration is known.
    """
    for process in filter(_serves, processes):
        read = _files_read(process)
        if not config_paths or not read or any(_covers(file, config_paths) for file in read):
            yield process


def _serves(process: Process) -> bool:
    """Tell whether it was started to serve, and not to test, convert or tell its version."""
    arguments = process.arguments[1:]
    command = arguments[0] if arguments and not arguments[0].startswith("-") else "run"
    return command == "run" and not any(word.lstrip("-") == "test" for word in arguments)


def _covers(file: str, config_paths: Sequence[str]) -> bool:
    return any(file == path or path.startswith(f"{file}/") for path in config_paths)


def _files_read(process: Process) -> tuple[str, ...]:
    """Return the real paths of the files and directories that the process was told to read."""
    named = tuple(_named_by_flags(process.arguments[1:]))
    if not named:
        # Xray then takes the first that exists in its working directory.
        beside = (os.path.join(process.directory, name) for name in _DEFAULT_FILES)
        named = tuple(path for path in beside if os.path.exists(path))[:1]
    return tuple(os.path.realpath(os.path.join(process.directory, path)) for path in named)


def _named_by_flags(arguments: Sequence[str]) -> Iterator[str]:
    """Give the values of -c, -config and -confdir, in each way that Go's flags may be written."""
    rest = iter(arguments)
    for argument in rest:
        flag, equals, value = argument.lstrip("-").partition("=")
        if argument.startswith("-") and flag in (*_FILE_FLAGS, *_DIRECTORY_FLAGS):
            yield value if equals else next(rest, "")
