"""
What runs on this machine, read from /proc.

A process is known by the file it executes, not by a word in its command line, so an editor that
has `xray.json` open is never taken for Xray. See proc(5).
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Lock

from attrs import frozen

_DELETED = " (deleted)"
_DEAD_STATES = ("Z", "X", "x")


class BootTimeUnknown(Exception):
    """/proc/stat does not say when this machine started."""


@frozen
class Process:
    """
    A running process.

    `executable` is the absolute path of the file it executes, `directory` its working directory,
    `started` an aware UTC time with the resolution of the kernel's clock tick (10 ms).
    """

    pid: int
    executable: str
    arguments: tuple[str, ...]
    directory: str
    started: datetime


class Processes:
    """The processes of this machine's own PID namespace, as /proc shows them."""

    def __init__(self, root: str = "/proc") -> None:
        self._root = Path(root)
        self._ticks_per_second = os.sysconf("SC_CLK_TCK")
        self._boot_time: datetime | None = None
        self._boot_time_lock = Lock()  # a thread that collects facts asks too
        self._named_lock = Lock()
        self._starts: dict[tuple[int, int], datetime] = {}

    def named(self, name: str) -> list[Process]:
        """
        Return the processes whose executable has the base name `name`, by rising pid.

        A file replaced under the running process still counts under its old name. Zombies,
        processes of containers and those that may not be looked into are left out.
        """
        with self._named_lock:
            pids = sorted(int(entry) for entry in os.listdir(self._root) if entry.isdecimal())
            self._forget_all_but(pids)
            found = (self._read(pid, name) for pid in pids)
            return [process for process in found if process is not None]

    def boot_time(self) -> datetime:
        """
        Return when this machine started, the same value on each call.

        The kernel derives it from the wall clock, so it moves by a second now and then; the
        master counts a restart each time it differs. Raises BootTimeUnknown.
        """
        with self._boot_time_lock:
            if self._boot_time is None:
                self._boot_time = self._read_boot_time()
            return self._boot_time

    def _read_boot_time(self) -> datetime:
        path = self._root / "stat"
        try:
            lines = path.read_text(encoding="ascii", errors="replace").splitlines()
        except OSError as error:
            raise BootTimeUnknown(f"cannot read {path}: {error.strerror}") from error
        for line in lines:
            word, _, value = line.partition(" ")
            if word == "btime" and value.strip().isdecimal():
                return datetime.fromtimestamp(int(value), UTC)
        raise BootTimeUnknown(f"no btime line in {path}")

    def _forget_all_but(self, pids: Iterable[int]) -> None:
        alive = set(pids)
        self._starts = {key: start for key, start in self._starts.items() if key[0] in alive}

    def _read(self, pid: int, name: str) -> Process | None:
        """Return the process, or None when it is another one, gone, dead or not ours."""
        try:
            # One system call settles it for nearly every process; no Path is made for those.
            executable = os.readlink(f"{self._root}/{pid}/exe").removesuffix(_DELETED)
            if os.path.basename(executable) != name:
                return None
            directory = self._root / str(pid)
            if self._is_foreign(directory):
                return None
            state, ticks = _state_and_start((directory / "stat").read_bytes())
            if state in _DEAD_STATES:
                return None
            return Process(
                pid=pid,
                executable=executable,
                arguments=_arguments((directory / "cmdline").read_bytes()),
                directory=os.readlink(directory / "cwd").removesuffix(_DELETED),
                started=self._started(pid, ticks),
            )
        except (OSError, ValueError):
            return None

    def _is_foreign(self, directory: Path) -> bool:
        theirs = _link(directory / "ns" / "pid")
        ours = _link(self._root / "self" / "ns" / "pid")
        return theirs is not None and ours is not None and theirs != ours

    def _started(self, pid: int, ticks: int) -> datetime:
        """Return the start time, computed once per process so that it never jitters."""
        key = (pid, ticks)
        if key not in self._starts:
            since_boot = timedelta(seconds=ticks / self._ticks_per_second)
            self._starts[key] = self._read_boot_time() + since_boot
        return self._starts[key]


def _link(path: Path) -> str | None:
    try:
        return os.readlink(path)
    except OSError:
        return None


def _state_and_start(stat: bytes) -> tuple[str, int]:
    """Return the state letter and the start in clock ticks. The command's name may hold `)`."""
    fields = stat.rpartition(b")")[2].split()
    if len(fields) < 20:
        raise ValueError("a stat line that is too short")
    return fields[0].decode("ascii"), int(fields[19])


def _arguments(cmdline: bytes) -> tuple[str, ...]:
    # nginx writes its title over its arguments and fills the rest with zero bytes.
    stripped = cmdline.rstrip(b"\0")
    return tuple(os.fsdecode(part) for part in stripped.split(b"\0")) if stripped else ()
