"""
What a service is, and what somebody who looks after services can do.

A service is named as its program, `xray` or `nginx`; the name goes into commands and must never
come from a request unchecked. Starting, stopping and the like end when they are done.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from attrs import frozen
from twisted.internet.defer import Deferred

from mmwagent.host.command import CommandNotFound, CommandNotStarted, Finished

RunCommand = Callable[..., Deferred[Finished]]

ACTIONS = ("start", "stop", "restart", "reload")
JOB_DEADLINE = 20.0  # seconds for a manager to do what it was asked
QUERY_DEADLINE = 5.0  # seconds for it to answer a question
LINES = 20


class Untouched(Exception):
    """A service was left as it was; the subclass says why."""

    nothing_done = True


class Busy(Untouched):
    """Something is being done with this service already."""


class NotInstalled(Untouched):
    """The program of this service is not on this machine."""


class Refused(Untouched):
    """A program refused its configuration; the text is in its own words."""


class ServiceFailed(Exception):
    """A service, or whoever looks after it, did not do what was asked; the text says why."""


@frozen
class ServiceState:
    """
    How a service stands.

    `active` tells that it runs, `pid` its main process where that is known. `changing` tells that
    it is on its way, so that a moment later it may be another; `known` is False where its manager
    has never heard of it. `detail` are the manager's words, for people.
    """

    active: bool
    pid: int | None
    detail: str
    changing: bool = False
    known: bool = True


class Services(Protocol):
    """Somebody who looks after services."""

    @property
    def name(self) -> str:
        """How people call it, as "systemd"."""

    async def state(self, service: str) -> ServiceState:
        """Return how `service` stands. Raises ServiceFailed where nobody can tell."""

    async def control(self, service: str, action: str) -> None:
        """
        Do `action`, one of ACTIONS, and return when it is done. Raises ServiceFailed.

        A service told to start may end a moment later: whoever asks has to look.
        """

    async def last_lines(self, service: str, count: int = LINES) -> list[str]:
        """Return the last lines that `service` wrote, none where they cannot be had."""


async def told(
    run: RunCommand, argv: list[str], timeout: float, environment: Mapping[str, str] | None = None
) -> Finished:
    """Run a command. Raises ServiceFailed where it cannot be started."""
    try:
        return await run(argv, timeout=timeout, env=environment)
    except (CommandNotFound, CommandNotStarted) as problem:
        raise ServiceFailed(str(problem)) from problem


def why(finished: Finished, argv: list[str], timeout: float) -> ServiceFailed:
    """Return what to raise for a command that did not succeed, in its own words."""
    called = " ".join(argv)
    if finished.timed_out:
        return ServiceFailed(f"`{called}` was not done within {timeout:.0f} s")
    words = text(finished.errors).strip() or text(finished.output).strip()
    ended = f"signal {finished.signal}" if finished.signal else f"status {finished.status}"
    return ServiceFailed(f"`{called}` ended with {ended}: {words or 'it said nothing'}")


def text(output: bytes) -> str:
    """Return what a command wrote."""
    return output.decode("utf-8", "replace")
