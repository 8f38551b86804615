"""Tests of learning from a process how it was started."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from mmwagent.host.launching import Launch, launch_of, main, masters
from mmwagent.host.processes import Process

START = datetime(2026, 5, 1, tzinfo=UTC)


def process(pid: int, *arguments: str, executable: str = "/opt/xray", age: int = 0) -> Process:
    """Return a process that is `age` seconds older than others."""
    return Process(pid, executable, arguments, "/srv", START - timedelta(seconds=age))


MASTER = process(
    9, "nginx: master process /opt/nginx -p /srv/n/ -c /srv/n/x.conf -g daemon off; -e /dev/null"
)
WORKER = process(5, "nginx: worker process", age=100)


class LaunchTests(SynchronousTestCase):
    """The command, its directory and its environment."""

    def setUp(self) -> None:
        """Have a /proc of our own."""
        self.proc = Path(self.mktemp())
        (self.proc / "7").mkdir(parents=True)

    def test_command(self) -> None:
        """Arguments and directory are kept; the file is named in full, whatever it was called."""
        launch = launch_of(process(7, "xray", "run", "-c", "a b.json"), self.proc)
        self.assertEqual(launch, Launch(("/opt/xray", "run", "-c", "a b.json"), "/srv", None))

    def test_environment(self) -> None:
        """The environment is kept, as bytes that are no text are."""
        (self.proc / "7" / "environ").write_bytes(b"A=1\0B=x=y\0\xff=\xfe\0junk\0")
        environment = launch_of(process(7, "xray"), self.proc).environment
        self.assertEqual(environment, {"A": "1", "B": "x=y", "\udcff": "\udcfe"})

    def test_hidden_environment(self) -> None:
        """One that may not be read, or is empty, is the agent's own."""
        self.assertIsNone(launch_of(process(7, "xray"), self.proc).environment)
        (self.proc / "7" / "environ").write_bytes(b"")
        self.assertIsNone(launch_of(process(7, "xray"), self.proc).environment)

    def test_nginx(self) -> None:
        """Of nginx's title the options are kept that name its files."""
        argv = launch_of(MASTER, self.proc).argv
        kept = ("-p", "/srv/n/", "-c", "/srv/n/x.conf", "-e", "/dev/null")
        self.assertEqual(argv, ("/opt/xray", *kept))

    def test_own_environment(self) -> None:
        """What a service inherits of the agent's environment are not the agent's tokens."""
        self.patch(os, "environ", {"MMWX_TOKEN": "secret", "LANG": "C", "PATH": "/bin"})
        self.assertEqual(Launch(("x",)).whole_environment(), {"LANG": "C", "PATH": "/bin"})

    def test_path(self) -> None:
        """A service without PATH gets ours, one with a PATH keeps its own."""
        self.patch(os, "environ", {"PATH": "/ours"})
        self.assertEqual(
            Launch(("x",), environment={"A": "1"}).whole_environment(), {"PATH": "/ours", "A": "1"}
        )
        self.assertEqual(
            Launch(("x",), environment={"PATH": "/its"}).whole_environment(), {"PATH": "/its"}
        )

    def test_secrets_not_shown(self) -> None:
        """What stands in an environment never gets into a text."""
        self.assertNotIn("secret", repr(Launch(("x",), environment={"A": "secret"})))


class MainTests(SynchronousTestCase):
    """Which of several processes counts."""

    def test_master(self) -> None:
        """Of nginx it is the master, also where a worker is older and has a lower number."""
        self.assertEqual(main([WORKER, MASTER]), MASTER)
        self.assertEqual(masters([WORKER, MASTER]), [MASTER])

    def test_oldest(self) -> None:
        """Of others it is the oldest, then the one with the lowest number."""
        young, old = process(1, "xray"), process(2, "xray", age=5)
        self.assertEqual(main([young, old]), old)
        self.assertEqual(main([process(4, "xray"), process(3, "xray")]).pid, 3)
        self.assertEqual(masters([young, old]), [young, old])
