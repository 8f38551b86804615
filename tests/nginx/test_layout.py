"""Tests of where nginx and its files are found."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.trial.unittest import SynchronousTestCase

from mmwagent.host.command import CommandNotFound, Finished
from mmwagent.host.processes import Process
from mmwagent.host.service import NotInstalled
from mmwagent.nginx.layout import Layout, find_layout, layouts
from tests.nginx.helpers import NGINX, NginxFiles, done, master, process, worker

DEBIAN = (
    "nginx version: nginx/1.22.1\nconfigure arguments: --with-cc-opt='-g -O2' "
    "--prefix=/usr/share/nginx --conf-path=/etc/nginx/nginx.conf --pid-path=/run/nginx.pid"
)


class FindTests(SynchronousTestCase):
    """nginx as the machine shows it."""

    def found(
        self, *processes: Process, built: str = DEBIAN, known: tuple[str, ...] = ()
    ) -> Layout:
        """Return the layout that is found."""

        def run(argv: list[str], *, timeout: float) -> Deferred[Finished]:
            self.assertEqual(argv, [NGINX, "-V"])
            return succeed(Finished(0, None, b"", built.encode("ascii"), False))

        layout: Layout = self.successResultOf(done(find_layout(NGINX, processes, run, known)))
        return layout

    def test_built_with(self) -> None:
        """An nginx that does not run is where it was built to be."""
        layout = self.found()
        self.assertEqual(
            layout, Layout(NGINX, Path("/usr/share/nginx"), Path("/etc/nginx/nginx.conf"))
        )

    def test_defaults(self) -> None:
        """Built with nothing, it is in nginx's own place; its file is relative to the prefix."""
        self.assertEqual(self.found(built="").main, Path("/usr/local/nginx/conf/nginx.conf"))
        self.assertEqual(
            self.found(built="--prefix=/p --conf-path=etc/n.conf").main, Path("/p/etc/n.conf")
        )

    def test_known_files(self) -> None:
        """Where its own file is missing one of the known places has it."""
        file = Path(self.mktemp()).absolute()
        file.touch()
        layout = self.found(built="--prefix=/none", known=("/none/x", str(file), "/etc/passwd"))
        self.assertEqual((layout.main, layout.prefix), (file, Path("/none")))

    def test_running(self) -> None:
        """A running nginx is where its arguments say."""
        layout = self.found(worker(9), master(10, " -p /p/ -c conf/n.conf -e /e.log"))
        self.assertEqual(
            layout, Layout(NGINX, Path("/p"), Path("/p/conf/n.conf"), ("-e", "/e.log"))
        )

    def test_running_options(self) -> None:
        """Directives given at the start belong to it, in however many words."""
        layout = self.found(master(10, " -g daemon on; master_process on; -c/a/n.conf"))
        self.assertEqual(layout.main, Path("/a/n.conf"))
        self.assertEqual(layout.options, ("-g", "daemon on; master_process on;"))
        self.assertEqual(
            layout.command("-t"),
            [NGINX, "-p", "/usr/share/nginx/", "-c", "/a/n.conf", *layout.options, "-t"],
        )

    def test_running_without_title(self) -> None:
        """One process alone keeps its arguments; one that sends a signal is no server."""
        running = process(10, "nginx", "-c", "/a/n.conf", "-g", "master_process off;")
        layout = self.found(process(9, "nginx", "-s", "reload", "-c", "/x"), running)
        self.assertEqual(layout.main, Path("/a/n.conf"))
        self.assertEqual(layout.options, ("-g", "master_process off;"))

    def test_relative_prefix(self) -> None:
        """A relative prefix is relative to where it was started."""
        running = Process(1, NGINX, ("nginx: master process nginx -p n",), "/home/u", None)  # type: ignore[arg-type]
        self.assertEqual(self.found(running).prefix, Path("/home/u/n"))

    def test_not_installed(self) -> None:
        """Without a program and without files there is no nginx."""

        def run(*arguments: Any, **options: Any) -> Deferred[Finished]:
            raise AssertionError("there is nothing to run")

        failure = self.failureResultOf(done(find_layout(None, [], run, ("/none",))))
        failure.trap(NotInstalled)

    def test_files_only(self) -> None:
        """Files without a program can be read, but nothing can be tested."""
        file = Path(self.mktemp()).absolute()
        file.touch()

        def run(*arguments: Any, **options: Any) -> Deferred[Finished]:
            raise AssertionError("there is nothing to run")

        layout = self.successResultOf(done(find_layout(None, [], run, (str(file),))))
        self.assertEqual(layout.main, file)
        self.assertRaises(NotInstalled, layout.command, "-t")

    def test_gone_meanwhile(self) -> None:
        """A program that is gone when it is asked leaves the defaults."""

        def run(*arguments: Any, **options: Any) -> Deferred[Finished]:
            return fail(CommandNotFound("gone"))

        layout = self.successResultOf(done(find_layout(NGINX, [], run, ())))
        self.assertEqual(layout.prefix, Path("/usr/local/nginx"))

    def test_layouts(self) -> None:
        """What finds it asks for its processes and its program each time."""
        asked: list[Any] = []

        async def processes() -> list[Process]:
            return [master(10, " -c /a/n.conf")]

        def binary(running: Any) -> str:
            asked.append(list(running))
            return "/opt/nginx"

        def run(argv: list[str], *, timeout: float) -> Deferred[Finished]:
            return succeed(Finished(0, None, b"", b"", False))

        find = layouts(binary, processes, run)
        for _ in range(2):
            layout = self.successResultOf(done(find()))  # type: ignore[arg-type]
            self.assertEqual((layout.binary, layout.main), ("/opt/nginx", Path("/a/n.conf")))
        self.assertEqual(len(asked), 2)


class PlacesTests(NginxFiles):
    """Which files may be read and written."""

    def setUp(self) -> None:
        """Lay files out as Debian has them."""
        super().setUp()
        self.lay_out(
            {
                "nginx.conf": "http { include conf.d/*.conf; include own/deep/*; include bin/*; }",
                "conf.d/a.conf": "",
                "sites-available/x": "",
                "cert/a.key": "",
                "bin/nginx": "",
            }
        )

    def editable(self, name: str) -> str:
        """Return the path of `name` below the test's directory."""
        path = self.layout.places().editable(name)
        return str(path.relative_to(os.path.realpath(self.home)))

    def test_editable(self) -> None:
        """The main file, what lies beside it, and files of known and included directories may."""
        for name, path in (
            ("nginx.conf", "nginx.conf"),
            (str(self.main), "nginx.conf"),
            ("mime.types", "mime.types"),
            ("conf.d/a.conf", "conf.d/a.conf"),
            ("conf.d/new.conf", "conf.d/new.conf"),
            ("servers/new.conf", "servers/new.conf"),
            ("own/deep/new", "own/deep/new"),
            (f"{self.home}/sites-available/x", "sites-available/x"),
        ):
            self.assertEqual(self.editable(name), path)

    def test_link_within(self) -> None:
        """A link from one of its directories to another is what it leads to."""
        (self.home / "sites-enabled").mkdir()
        (self.home / "sites-enabled" / "x").symlink_to("../sites-available/x")
        self.assertEqual(self.editable("sites-enabled/x"), "sites-available/x")

    def test_not_editable(self) -> None:
        """Keys, programs, pages, logs, hidden files and whatever is elsewhere may not."""
        (self.home / "conf.d" / "out").symlink_to("/etc/passwd")
        (self.home / "conf.d" / "dir.conf").mkdir()
        os.mkfifo(self.home / "conf.d" / "pipe.conf")
        for name in (
            "cert/a.key",
            "bin/nginx",
            "html/index.html",
            "a.key",
            "conf.d/A.PEM",
            "error.log",
            "nginx.pid",
            "conf.d/.a",
            "conf.d/sub/a.conf",
            "own/x",
            "conf.d/out",
            "conf.d/dir.conf",
            "conf.d/pipe.conf",
            "conf.d",
            "../x.conf",
            "/etc/passwd",
            f"{self.home}-evil/a.conf",
            "a\0",
            "",
        ):
            problem = self.assertRaises(ValueError, self.layout.places().editable, name)
            self.assertTrue(str(problem))

    def test_main_is_a_link(self) -> None:
        """The main file may be a link to anywhere: it is the one nginx reads."""
        target = Path(self.mktemp()).absolute()
        target.touch()
        self.main.unlink()
        self.main.symlink_to(target)
        self.assertEqual(self.layout.places().editable("nginx.conf"), target.resolve())

    def test_within_the_prefix(self) -> None:
        """With its file in conf/ of the prefix, the known directories of the prefix count too."""
        (self.home / "conf").mkdir()
        layout = Layout(NGINX, self.home, self.home / "conf" / "nginx.conf")
        self.lay_out({"servers/a.conf": "", "a.conf": ""})
        places = layout.places()
        self.assertEqual(places.editable("servers/a.conf").parent.name, "servers")
        self.assertEqual(
            places.editable("servers/b.conf"), self.home.resolve() / "conf/servers/b.conf"
        )
        self.assertRaises(ValueError, places.editable, str(self.home / "a.conf"))
