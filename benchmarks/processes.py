"""The processes of a measurement: started in a room of their own, and gone at its end."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from types import TracebackType
from typing import IO

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 60.0  # seconds for anything to happen at all
GRACE = 5.0  # seconds for a process to end by itself


class CannotMeasure(Exception):
    """A part cannot be measured here; str() says why."""


class Child:
    """
    A process whose lines of output are kept with the time of each.

    Its standard error goes to the same place. Its standard input is a pipe that closes with us:
    our own helpers end at that.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        directory: Path,
        environment: Mapping[str, str],
        room: Sequence[Child],
    ) -> None:
        self.name = name
        self._room = room
        self.started = time.monotonic()
        self._process = subprocess.Popen(
            command,
            cwd=directory,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C is for us alone, who then end it
        )
        self.pid = self._process.pid
        self.said: list[tuple[float, str]] = []
        self._lines: SimpleQueue[tuple[float, str] | None] = SimpleQueue()
        assert self._process.stdout is not None
        self._reader = Thread(target=self._read, args=[self._process.stdout], daemon=True)
        self._reader.start()

    def _read(self, stream: IO[str]) -> None:
        for line in stream:
            heard = time.monotonic(), line.rstrip()
            self.said.append(heard)
            self._lines.put(heard)
        self._lines.put(None)

    def line_with(self, text: str, patience: float = PATIENCE) -> tuple[float, str]:
        """
        Return the next line that holds `text`, with its time.

        Raises CannotMeasure where none comes, or one of those in the room has ended.
        """
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            try:
                heard = self._lines.get(timeout=0.5)
            except Empty:
                for each in self._room:
                    each.check()
                continue
            if heard is None:
                raise self._complaint(f"ended before it said {text!r}")
            if text in heard[1]:
                return heard
        raise self._complaint(f"does not say {text!r} within {patience:.0f} s", *self._room)

    def check(self) -> None:
        """Raise CannotMeasure where it has ended."""
        if self._process.poll() is not None:
            raise self._complaint(f"ended with status {self._process.returncode}")

    def output(self, patience: float = PATIENCE) -> list[str]:
        """Return all its lines once it has ended well. Raises CannotMeasure."""
        try:
            self._process.wait(patience)
        except subprocess.TimeoutExpired:
            raise self._complaint(f"does not end within {patience:.0f} s") from None
        self._reader.join(GRACE)
        if self._process.returncode:
            raise self._complaint(f"ended with status {self._process.returncode}")
        return [line for _, line in self.said]

    def end(self) -> None:
        """End it, by force where it does not end by itself."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(GRACE)
            except subprocess.TimeoutExpired:
                pass
        try:
            os.killpg(self.pid, signal.SIGKILL)  # also what it may have started
        except (ProcessLookupError, PermissionError):
            pass
        self._process.wait()
        self._reader.join(GRACE)
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()

    def _complaint(self, what: str, *others: Child) -> CannotMeasure:
        said = [
            f"\n  {child.name} said last:"
            + "".join(f"\n    {line}" for _, line in child.said[-8:])
            for child in others or [self]
        ]
        return CannotMeasure(f"{self.name} {what}{''.join(said)}")


class Room:
    """A temporary directory, and the processes that work in it."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="mmw-bench-"))
        self._children: list[Child] = []

    def __enter__(self) -> Room:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with undisturbed():
            for child in reversed(self._children):
                child.end()
            shutil.rmtree(self.path, ignore_errors=True)

    def start(self, name: str, *command: str) -> Child:
        """Start a process here; it knows no setting of the caller's agent."""
        env = {key: value for key, value in os.environ.items() if not key.startswith("MMWX_")}
        with undisturbed():  # between its start and our note of it
            try:
                child = Child(name, command, self.path, env, self._children)
            except OSError as error:
                raise CannotMeasure(f"{name} cannot be started: {error}") from error
            self._children.append(child)
        return child

    def start_module(self, name: str, *arguments: str) -> Child:
        """Start one of our own helpers, `benchmarks.NAME`."""
        code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); sys.argv[0] = {name!r}; "
        code += f"from benchmarks.{name} import main; main(sys.argv[1:])"
        return self.start(name, sys.executable, "-c", code, *arguments)

    def write(self, name: str, text: str) -> str:
        """Write a file, and return its path."""
        path = self.path / name
        path.write_text(text, encoding="utf-8")
        return str(path)

    def end(self, child: Child) -> None:
        """End a process before the others."""
        with undisturbed():
            child.end()
            self._children.remove(child)


class undisturbed:
    """
    Holds back Ctrl-C and the like for a moment, so that no process is forgotten.

    Not by the signal mask: a process that is started meanwhile would inherit that.
    """

    _SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __enter__(self) -> None:
        self._came: list[int] = []
        self._before = {number: signal.signal(number, self._note) for number in self._SIGNALS}

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
        for came in self._came:
            signal.raise_signal(came)

    def _note(self, number: int, frame: object) -> None:
        self._came.append(number)


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def wait_until(true: Callable[[], bool], what: str, pause: float = 0.002) -> float:
    """Return the time at which `true` has become so. Raises CannotMeasure."""
    deadline = time.monotonic() + PATIENCE
    while not true():
        if time.monotonic() > deadline:
            raise CannotMeasure(f"{what}: not within {PATIENCE:.0f} s")
        time.sleep(pause)
    return time.monotonic()
