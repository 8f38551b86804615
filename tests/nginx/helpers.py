"""What the tests of nginx's parts share: files, processes and requests that are made up."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, execute, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mmwagent.host.backups import Backups
from mmwagent.host.command import Finished
from mmwagent.host.files import write_atomically
from mmwagent.host.processes import Process
from mmwagent.host.service import NotInstalled
from mmwagent.nginx.apply import NginxApply
from mmwagent.nginx.layout import Layout

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
NGINX = "/usr/sbin/nginx"
HTTP = "events {}\nhttp {\n    include conf.d/*.conf;\n}\n"

GOOD = Finished(0, None, b"", b"", False)


def refusal(words: str) -> Finished:
    """Return how `nginx -t` ends that refuses."""
    return Finished(1, None, b"", words.encode("ascii"), False)


def process(pid: int, *arguments: str) -> Process:
    """Return a process of nginx with these arguments."""
    return Process(pid, NGINX, arguments, "/", NOW)


def master(pid: int = 10, rest: str = "") -> Process:
    """Return a master, its title ending with `rest`."""
    return process(pid, f"nginx: master process {NGINX}{rest}")


def worker(pid: int, rest: str = "") -> Process:
    """Return a worker, its title ending with `rest`."""
    return process(pid, f"nginx: worker process{rest}")


def done(work: Coroutine[Any, Any, Any]) -> Deferred[Any]:
    """Return what `work` comes to."""
    return Deferred.fromCoroutine(work)


class NginxFiles(SynchronousTestCase):
    """A test with a directory for nginx's files."""

    def setUp(self) -> None:
        """Make the directory."""
        top = Path(self.mktemp()).absolute()
        self.home = top / "nginx"
        self.home.mkdir(parents=True)
        self.main = self.home / "nginx.conf"
        self.layout = Layout(NGINX, top / "prefix", self.main)

    def lay_out(self, files: Mapping[str, str]) -> None:
        for name, text in files.items():
            path = self.home / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def laid_out(self) -> dict[str, str]:
        """Return all files with their contents."""
        return {
            str(path.relative_to(self.home)): path.read_text()
            for path in sorted(self.home.rglob("*"))
            if path.is_file()
        }


class FakeNginx:
    """
    An nginx that runs or not, and takes a change over or not.

    `answers` to `nginx -t` are given in turn, the last again and again.
    """

    def __init__(self, layout: Layout, backups: Path) -> None:
        self.layout: Layout | None = layout
        self.clock = Clock()
        self.answers: list[Finished | Exception] = [GOOD]
        self.commands: list[list[str]] = []
        self.running: list[Process] = []
        self.reloads = 0
        self.takes_over = True
        self.reload_fails: Exception | None = None
        self.on_test: Callable[[], object] = lambda: None
        self.on_reload: Callable[[], object] = lambda: None
        self.put: Callable[..., None] = write_atomically
        self.apply = NginxApply(
            find=self.find,
            run=self.run,
            control=self,
            processes=self.processes,
            in_thread=execute,
            clock=self.clock,
            backups=Backups(backups),
            put=lambda *arguments, **options: self.put(*arguments, **options),
        )

    def start(self) -> None:
        self.running = [master(), worker(11), worker(12)]

    async def find(self) -> Layout:
        if self.layout is None:
            raise NotInstalled("nginx is not installed")
        return self.layout

    def run(self, argv: list[str], *, timeout: float) -> Deferred[Finished]:
        self.commands.append(argv)
        self.on_test()
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return fail(answer) if isinstance(answer, Exception) else succeed(answer)

    async def processes(self) -> list[Process]:
        return list(self.running)

    async def reload(self, service: str) -> None:
        assert service == "nginx"
        self.reloads += 1
        self.on_reload()
        if self.reload_fails is not None:
            raise self.reload_fails
        if self.takes_over:
            first = max(one.pid for one in self.running) + 1
            old = [worker(one.pid, " is shutting down") for one in self.running[1:]]
            self.running = [self.running[0], *old, worker(first), worker(first + 1)]
