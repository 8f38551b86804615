"""Tests of nginx's error log."""

from __future__ import annotations

from mmwagent.nginx.errorlog import ErrorLog
from mmwagent.nginx.layout import Layout
from tests.nginx.helpers import NGINX, NginxFiles


class ErrorLogTests(NginxFiles):
    """What nginx has written since."""

    def log(self, main: str, *options: str) -> ErrorLog:
        """Return the log of an nginx with the main file `main`."""
        self.main.write_text(main)
        return ErrorLog.of(Layout(NGINX, self.home, self.main, options))

    def test_since(self) -> None:
        """Serious messages that came since are told, each once, without time and process."""
        (self.home / "e").write_text("2026/01/01 00:00:00 [emerg] 1#1: before\n")
        log = self.log("http { error_log /other; } error_log e warn;")
        self.assertEqual(log.since(), "")
        with open(self.home / "e", "a") as file:
            for level, words in (("emerg", "a"), ("notice", "b"), ("alert", "c"), ("emerg", "a")):
                file.write(f"2026/01/01 00:00:00 [{level}] 1#1: {words}\n")
        self.assertEqual(log.since(), "a\nc")

    def test_new_file(self) -> None:
        """A log that was not there is read from its beginning; one that went away says nothing."""
        log = self.log("error_log e;")
        self.assertEqual(log.since(), "")
        (self.home / "e").write_text("x [crit] 12#0: a \xff\n", encoding="latin-1")
        self.assertEqual(log.since(), "a \ufffd")

    def test_option(self) -> None:
        """Where the file names none, the log that nginx was started with counts."""
        (self.home / "f").touch()
        self.assertEqual(self.log("", "-g", "x;", "-e", "f").path, self.home / "f")

    def test_no_file(self) -> None:
        """Logs that are no files say nothing."""
        for main in (
            "error_log stderr;",
            "error_log syslog:server=x;",
            "error_log memory:1m;",
            "",
        ):
            log = self.log(main)
            self.assertIsNone(log.path)
            self.assertEqual(log.since(), "")
