"""How a service is started, learned from the processes of one that runs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from attrs import field, frozen

from mmwagent.host.processes import Process

_MASTER = "nginx: master process "
_KEPT_OF_NGINX = ("-c", "-p", "-e")


@frozen
class Launch:
    """A command, where it is started, and its environment (None: the agent's own)."""

    argv: tuple[str, ...]
    directory: str = "/"
    environment: Mapping[str, str] | None = field(default=None, repr=False)

    def whole_environment(self) -> dict[str, str]:
        """
        Return the environment to start it in.

        The agent's own variables are left out of what it inherits: its tokens are nobody else's.
        There always is a PATH, for the tools that do the starting.
        """
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith("MMW")
        }
        environment = inherited if self.environment is None else self.environment
        return {"PATH": os.environ.get("PATH", os.defpath), **environment}


def launch_of(process: Process, proc: Path = Path("/proc")) -> Launch:
    """Return how `process` can be started again."""
    return Launch(_arguments(process), process.directory, _environment(proc / str(process.pid)))


def main(processes: Sequence[Process]) -> Process:
    """Return the main one of `processes`: nginx's master, else the one that has run longest."""
    return min(masters(processes), key=lambda process: (process.started, process.pid))


def masters(processes: Sequence[Process]) -> Sequence[Process]:
    """Return those of `processes` that end the others; all of them if there is none of nginx."""
    return [process for process in processes if _title(process).startswith(_MASTER)] or processes


def _title(process: Process) -> str:
    return "".join(process.arguments[:1])


def _arguments(process: Process) -> tuple[str, ...]:
    if not _title(process).startswith(_MASTER):
        return (process.executable, *process.arguments[1:])
    # The command line has become a title and lost its quotes. Of its options these are single
    # words; -g is left out: it mostly says to stay in the foreground, which is no matter here.
    words = _title(process).removeprefix(_MASTER).split()
    kept = (word for pair in pairwise(words) if pair[0] in _KEPT_OF_NGINX for word in pair)
    return (process.executable, *kept)


def _environment(directory: Path) -> Mapping[str, str] | None:
    try:
        entries = (directory / "environ").read_bytes().split(b"\0")
    except OSError:
        return None
    pairs = (os.fsdecode(entry).partition("=") for entry in entries if b"=" in entry)
    return {name: value for name, _, value in pairs} or None
