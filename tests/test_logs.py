"""Tests of the agent's loggers."""

from __future__ import annotations

from twisted.logger import InvalidLogLevelError, capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from mmwagent import logs
from mmwagent.logs import LEVELS, logger, set_level

log = logger()


class LoggerTests(SynchronousTestCase):
    """A logger speaks for its module, and only from the level on that was set."""

    def setUp(self) -> None:
        """Begin and end with the level that holds when nobody has set one."""
        logs._threshold.clearLogLevels()
        self.addCleanup(logs._threshold.clearLogLevels)

    def said(self) -> list[str]:
        """Speak at each level, and return the levels that were heard."""
        with capturedLogs() as events:
            log.debug("debug {n}", n=1)
            log.info("info {n}", n=2)
            log.warn("warn {n}", n=3)
            log.error("error {n}", n=4)
        mine = [event for event in events if event["log_namespace"] == __name__]
        return [event["log_level"].name for event in mine]

    def test_named_after_the_module(self) -> None:
        """A logger has the name of the module that made it."""
        self.assertEqual(log.namespace, __name__)

    def test_fields_are_kept(self) -> None:
        """An event keeps its fields, for observers that tell them one by one."""
        with capturedLogs() as events:
            log.info("hello {who}", who="you")
        self.assertEqual((events[0]["log_format"], events[0]["who"]), ("hello {who}", "you"))

    def test_info_by_default(self) -> None:
        """Unless it is set otherwise, all but debug is heard."""
        self.assertEqual(self.said(), ["info", "warn", "error"])

    def test_each_level(self) -> None:
        """A level lets itself and those above it through, for loggers that exist already."""
        self.assertEqual(LEVELS, ("debug", "info", "warn", "error"))
        for number, level in enumerate(LEVELS):
            with self.subTest(level=level):
                set_level(level)
                self.assertEqual(self.said(), list(LEVELS[number:]))

    def test_failures_are_heard(self) -> None:
        """A failure is logged with its traceback at every level."""
        set_level("error")
        try:
            raise ZeroDivisionError
        except ZeroDivisionError:
            log.failure("it failed")
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_unknown_level(self) -> None:
        """A level that does not exist is refused, and the one before it stays."""
        self.assertRaises(InvalidLogLevelError, set_level, "loud")
        self.assertEqual(self.said(), ["info", "warn", "error"])
