"""
A process that writes an Xray configuration again and again, until somebody kills it.

    python -m tests.integration.xray_writer FILE BACKUPS

Each content is one that `content` gives; each one written is told by a line. Xray is not asked:
the moments at which to be killed are those of reading and writing.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.internet.task import react
from twisted.internet.threads import deferToThread

from mmwagent.host.backups import Backups
from mmwagent.xray.apply import XrayApply
from mmwagent.xray.inspection import XrayNow

PADDING = "x" * 6_000_000  # to write it takes a moment


def content(number: int) -> str:
    """Return a configuration with a number at its start and at its end."""
    return f'{{"start": {number}, "padding": "{PADDING}", "end": {number}}}\n'


def is_whole(text: str) -> bool:
    """Return whether `text` is one of the contents, from its start to its end."""
    number = text[:40].removeprefix('{"start": ').partition(",")[0]
    return number.isdecimal() and text == content(int(number))


async def right(path: Path, text: str, *, certificates_may_follow: bool) -> tuple[str, ...]:
    """Take everything."""
    return ()


async def nothing_runs() -> XrayNow:
    """Tell that no Xray runs."""
    return XrayNow((), ())


async def no_restart() -> None:
    """Fail: nothing runs that could be restarted."""
    raise AssertionError("a restart without an Xray that runs")


async def write(file: Path, backups: Path) -> None:
    """Write for ever."""
    apply = XrayApply(right, nothing_runs, no_restart, Backups(backups), deferToThread)
    for number in itertools.count():
        outcome = await apply.write(file, content(number), restart=True)
        print(f"{outcome.changed} {number}", flush=True)


if __name__ == "__main__":
    where = (Path(sys.argv[1]), Path(sys.argv[2]))
    react(lambda _: Deferred.fromCoroutine(write(*where)))
