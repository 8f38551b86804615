"""
The agent's loggers: Twisted's own, heard from a level on.

`twistd` writes every event it gets, debug included, whatever observer it was started with. So the
level is held here, at the source, and works the same under `twistd`, journald and trial.
"""

from __future__ import annotations

import sys

from twisted.logger import (
    FilteringLogObserver,
    Logger,
    LogLevel,
    LogLevelFilterPredicate,
    globalLogPublisher,
)

LEVELS = ("debug", "info", "warn", "error")

_threshold = LogLevelFilterPredicate(defaultLogLevel=LogLevel.info)
_observer = FilteringLogObserver(globalLogPublisher, [_threshold])


def logger() -> Logger:
    """Return a logger named after the module that calls this."""
    namespace = sys._getframe(1).f_globals["__name__"]
    return Logger(namespace=namespace, observer=_observer)


def set_level(name: str) -> None:
    """Let through events of the level `name`, one of LEVELS, and above."""
    _threshold.setLogLevelForNamespace("", LogLevel.levelWithName(name))
