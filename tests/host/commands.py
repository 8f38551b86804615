"""Commands that do what a test says, in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed

from mmwagent.host.command import CommandNotFound, Finished


def ended(
    output: str = "", *, status: int | None = 0, errors: str = "", timed_out: bool = False
) -> Finished:
    """Return the end of a command."""
    return Finished(status, None, output.encode(), errors.encode(), timed_out)


class Commands:
    """
    Runs commands in memory.

    `answers` gives for a part of a command line how such a command ends: a Finished, an
    exception, a Deferred, or a list of these for one call after the other.
    """

    def __init__(self, answers: dict[str, Any]) -> None:
        self.answers = answers
        self.ran: list[str] = []
        self.timeouts: list[float] = []

    def __call__(
        self, argv: Sequence[str], *, timeout: float, env: Mapping[str, str] | None = None
    ) -> Deferred[Finished]:
        """Answer as it was told; what it was not told of is not there."""
        line = " ".join(argv)
        self.ran.append(line)
        self.timeouts.append(timeout)
        for part, answer in self.answers.items():
            if part in line:
                if isinstance(answer, list):
                    answer = answer.pop(0) if len(answer) > 1 else answer[0]
                if isinstance(answer, Exception):
                    return fail(answer)
                return answer if isinstance(answer, Deferred) else succeed(answer)
        return fail(CommandNotFound(f"no executable file {argv[0]!r} on this machine"))
