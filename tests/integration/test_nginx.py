"""Changes of nginx's files, taken over or refused by a real nginx in a prefix of its own."""

from __future__ import annotations

import json
import os
import ssl
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Coroutine
from datetime import UTC, datetime
from functools import partial, wraps
from io import BytesIO
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from mmwagent.host import command
from mmwagent.host.backups import Backups
from mmwagent.host.command import find_executable
from mmwagent.host.files import write_atomically
from mmwagent.host.processes import Process, Processes
from mmwagent.host.service import ServiceFailed
from mmwagent.manage.errors import ApiError
from mmwagent.manage.nginx import NginxResource
from mmwagent.nginx.apply import NginxApply
from mmwagent.nginx.documents import Documents
from mmwagent.nginx.files import NotWritten
from mmwagent.nginx.layout import Layout, find_layout
from mmwagent.testing.xray import free_port
from tests.integration.helpers import STEP, ProcessCase

MAIN = """\
user root;
worker_processes 2;
pid {directory}/nginx.pid;
error_log {directory}/error.log;
events {{ }}
http {{
    access_log off;
    client_body_temp_path {directory}/t1;
    proxy_temp_path {directory}/t2;
    fastcgi_temp_path {directory}/t3;
    uwsgi_temp_path {directory}/t4;
    scgi_temp_path {directory}/t5;
    include conf.d/*.conf;
}}
"""
SERVER = "server {{ listen 127.0.0.1:{port}; location / {{ return 200 '{word}'; }} }}\n"
TLS_SERVER = """\
server {{
    listen 127.0.0.1:{port} ssl;
    server_name {domain};
    ssl_certificate cert/{domain}.pem;
    ssl_certificate_key cert/{domain}.key;
    location / {{ return 200 'site'; }}
}}
"""
STREAM_MODULE = Path(
    os.environ.get("MMW_NGINX_STREAM") or "/usr/lib/nginx/modules/ngx_stream_module.so"
)


def awaited(method: Callable[[Any], Coroutine[Any, Any, None]]) -> Callable[[Any], Deferred[None]]:
    """Make a test of a coroutine: old versions of trial would never run it, and call it passed."""

    @wraps(method)
    def test(case: Any) -> Deferred[None]:
        return Deferred.fromCoroutine(method(case))

    return test


class FakeRequest:
    """What the handlers look at of a request."""

    def __init__(self, body: Any = None, **query: str) -> None:
        self.content = BytesIO(b"" if body is None else json.dumps(body).encode("ascii"))
        self.args = {
            name.encode("ascii"): [value.encode("utf-8")] for name, value in query.items()
        }


class NginxCase(ProcessCase):
    """A real nginx with its files in the test's own directory."""

    def setUp(self) -> None:
        """Lay the files out: a main file with conf.d/*.conf, and one server in it."""
        super().setUp()
        found = find_executable("nginx", ("/usr/local/nginx/sbin",))
        if found is None:
            raise FileNotFoundError("nginx is missing: install nginx-light")
        self.binary = found
        self.home = self.place.directory / "nginx"
        (self.home / "conf.d").mkdir(parents=True)
        self.main = self.home / "nginx.conf"
        self.main.write_text(MAIN.format(directory=self.home))
        self.port = free_port()
        self.site = self.home / "conf.d" / "a.conf"
        self.site.write_text(SERVER.format(port=self.port, word="old"))
        self.put = write_atomically
        self.master: Any = None
        self.apply = NginxApply(
            find=self.find,
            run=partial(command.run, reactor),
            control=self,
            processes=self.processes,
            in_thread=deferToThread,
            clock=reactor,
            backups=Backups(self.place.directory / "backups"),
            put=lambda *arguments, **options: self.put(*arguments, **options),
        )
        self.resource = NginxResource(self.apply, deferToThread, lambda: datetime.now(UTC))

    async def find(self) -> Layout:
        """Find the nginx of this test: the running one, else the one to be."""
        if self.master is None:
            return Layout(self.binary, self.home, self.main, ("-e", f"{self.home}/e.log"))
        return await find_layout(self.binary, await self.processes(), self.apply.run)

    async def processes(self) -> list[Process]:
        """Return the processes of this test's nginx alone."""
        if self.master is None:
            return []
        mine = self.master.process.pid
        return [
            process
            for process in Processes().named("nginx")
            if process.pid == mine or _parent(process.pid) == mine
        ]

    async def reload(self, service: str) -> None:
        """Tell it to reload, as a service manager does."""
        if self.master is None:
            raise ServiceFailed("nginx does not run")
        self.master.signal("HUP")

    async def start(self) -> None:
        """Start it, and wait until it serves."""
        own = ["-p", f"{self.home}/", "-e", f"{self.home}/e.log", "-c", str(self.main)]
        self.master = self.child(self.binary, *own, "-g", "daemon off; master_process on;")
        # Killed, a master leaves its workers behind.
        self.addCleanup(lambda: self.master.ended)
        self.addCleanup(self.master.signal, "TERM")
        await self.serves("old")

    async def serves(self, word: str) -> None:
        """Wait until it answers `word`; an old worker may take a connection more."""
        for _ in range(100):
            answer = await deferToThread(_get, f"http://127.0.0.1:{self.port}/")
            if answer == word:
                return
            await deferLater(reactor, STEP)
        self.assertEqual(answer, word)

    async def refused(self, work: Awaitable[Any], status: int) -> str:
        """Check that `work` fails with `status`, and return its words."""
        try:
            answer = await work
        except ApiError as problem:
            self.assertEqual(problem.status, status, problem.error)
            return problem.error
        raise AssertionError(f"not refused: {answer}")

    def files(self) -> dict[str, Any]:
        """Return every file in nginx's directory with its content and mode, logs left out."""
        return {
            str(path.relative_to(self.home)): (path.read_bytes(), path.stat().st_mode)
            for path in self.home.rglob("*")
            if path.is_file() and path.suffix not in (".log", ".pid")
        }


class WriteTests(NginxCase):
    """nginx/config and nginx/config/files."""

    @awaited
    async def test_taken_over(self) -> None:
        """A good file is in place, and when the answer comes nginx serves by it."""
        await self.start()
        self.site.chmod(0o640)
        new = SERVER.format(port=self.port, word="new")
        body = {"path": "conf.d/a.conf", "content": new}
        answer = await self.resource.write_file(FakeRequest(body))
        self.assertTrue(answer["changed"] and answer["reloaded"], answer)
        await self.serves("new")
        self.assertEqual(self.site.read_text(), new)
        self.assertEqual(self.site.stat().st_mode & 0o777, 0o640)
        self.assertFalse([name for name in os.listdir(self.site.parent) if name != "a.conf"])

    @awaited
    async def test_unchanged(self) -> None:
        """What is so already is not written and reloads nothing."""
        await self.start()
        before = self.site.stat().st_ino, {process.pid for process in await self.processes()}
        body = {"path": str(self.site), "content": self.site.read_text()}
        answer = await self.resource.write_file(FakeRequest(body))
        self.assertFalse(answer["changed"] or answer["reloaded"])
        after = self.site.stat().st_ino, {process.pid for process in await self.processes()}
        self.assertEqual(before, after)

    @awaited
    async def test_refused(self) -> None:
        """What nginx refuses is gone again, with its words, and it serves on as before."""
        await self.start()
        before = self.files()
        body = {"file": "conf.d/a.conf", "content": "server { listen 1; no_such_word on; }"}
        words = await self.refused(self.resource.write_file(FakeRequest(body)), 422)
        self.assertIn('unknown directive "no_such_word"', words)
        self.assertEqual(self.files(), before)
        await self.serves("old")

    @awaited
    async def test_refused_new_file(self) -> None:
        """A new file that nginx refuses is removed, and the directory made for it too."""
        self.site.with_name("s.conf").write_text("include servers/*.conf;\n")
        before = self.files()
        for name in ("conf.d/b.conf", "servers/b.conf"):
            body = {"path": name, "content": "}"}
            await self.refused(self.resource.write_file(FakeRequest(body)), 422)
            self.assertEqual(self.files(), before)
        self.assertFalse((self.home / "servers").exists())

    @awaited
    async def test_refused_main_file(self) -> None:
        """The main file is tested as any other."""
        await self.start()
        before = self.files()
        for config in ("", "events {}\nhttp {", "user root;\n"):
            await self.refused(self.resource.write_config(FakeRequest({"config": config})), 422)
            self.assertEqual(self.files(), before)
        await self.serves("old")

    @awaited
    async def test_reload_fails(self) -> None:
        """What passes the test but cannot be taken over, as a port in use, is put back too."""
        await self.start()
        before = self.files()
        taken = reactor.listenTCP(0, Factory.forProtocol(Protocol), interface="127.0.0.1")
        self.addCleanup(taken.stopListening)
        both = SERVER.format(port=taken.getHost().port, word="never")
        body = {"path": "conf.d/b.conf", "content": both}
        words = await self.refused(self.resource.write_file(FakeRequest(body)), 422)
        self.assertIn("Address already in use", words)
        self.assertEqual(self.files(), before)
        await self.serves("old")
        body["content"] = SERVER.format(port=self.port, word="x").replace("/ {", "/x {")
        self.assertTrue((await self.resource.write_file(FakeRequest(body)))["reloaded"])

    @awaited
    async def test_not_running(self) -> None:
        """Where nginx does not run the file is tested and kept for its next start."""
        body = {"config": self.main.read_text() + "# new\n"}
        answer = await self.resource.write_config(FakeRequest(body))
        self.assertTrue(answer["changed"])
        self.assertFalse(answer["reloaded"])
        self.assertTrue(self.main.read_text().endswith("# new\n"))

    @awaited
    async def test_reload_goes_on(self) -> None:
        """While its files change again and again nginx answers every request."""
        await self.start()
        answers: list[str] = []
        going = [True]

        async def ask() -> None:
            while going[0]:
                answers.append(await deferToThread(_get, f"http://127.0.0.1:{self.port}/"))

        asking = ensureDeferred(ask())
        for number in range(10):
            content = SERVER.format(port=self.port, word=f"n{number}")
            body = {"path": "conf.d/a.conf", "content": content}
            await self.resource.write_file(FakeRequest(body))
        going[0] = False
        await asking
        words = {f"n{number}" for number in range(10)} | {"old"}
        self.assertGreater(len(answers), 10)
        self.assertLessEqual(set(answers), words)

    @awaited
    async def test_outside(self) -> None:
        """No path leads out of nginx's directories: nothing is read there, nothing written."""
        outside = self.place.directory / "outside"
        outside.mkdir()
        (outside / "x.conf").write_text("secret")
        (self.home / "conf.d" / "link.conf").symlink_to(outside / "x.conf")
        (self.home / "conf.d" / "dir").symlink_to(outside)
        (self.home / "cert").mkdir()
        (self.home / "cert" / "x.key").write_text("secret")
        before = sorted(outside.rglob("*")), self.files()
        for name in (
            "../outside/x.conf",
            "conf.d/../../outside/x.conf",
            str(outside / "x.conf"),
            f"{self.home}-evil/x.conf",
            "conf.d/link.conf",
            "conf.d/dir/x.conf",
            "conf.d/x\0.conf",
            "conf.d/%2e%2e/%2e%2e/outside/x.conf",
            "..%2foutside%2fx.conf",
            "%252e%252e/outside/x.conf",
            "cert/x.key",
            "conf.d/.hidden.conf",
            "/etc/passwd",
            "conf.d",
            ".",
            "a\n.conf",
            "x" * 300,
            "x/" * 3000,
        ):
            read = self.resource.files(FakeRequest(file=name))
            words = await self.refused(read, 400)
            self.assertNotIn("secret", words)
            self.assertTrue(words.startswith("file: "), words)
            body = {"path": name, "content": "events {}\n"}
            await self.refused(self.resource.write_file(FakeRequest(body)), 400)
            body = {"path": name, "config": "events {}\n"}
            await self.refused(self.resource.write_config(FakeRequest(body)), 400)
        self.assertEqual((sorted(outside.rglob("*")), self.files()), before)
        self.assertEqual((outside / "x.conf").read_text(), "secret")

    @awaited
    async def test_disk_full(self) -> None:
        """A disk that fills up half way leaves all as it was and says so."""
        await self.start()
        before = self.files()
        written: list[Path] = []

        def put(path: Path, data: bytes, **options: Any) -> None:
            written.append(path)
            if len(written) > 1:
                raise OSError(28, "No space left on device", str(path))
            write_atomically(path, data, **options)

        self.put = put
        contents = {
            self.site: b"# empty\n",
            self.main: self.main.read_bytes() + b"#\n",
            self.home / "conf.d" / "c.conf": b"#\n",
        }
        problem = await self.assertFailure(self.apply.write(contents), NotWritten)
        self.assertIn("nginx.conf cannot be written: No space left on device", str(problem))
        self.assertEqual(len(written), 2)
        self.assertEqual(self.files(), before)
        written.append(self.main)
        body = {"config": "# x\n"}
        words = await self.refused(self.resource.write_config(FakeRequest(body)), 507)
        self.assertIn("No space left on device", words)
        self.assertEqual(self.files(), before)

    @awaited
    async def test_read_only_directory(self) -> None:
        """Where the directory takes no files the answer says it, and nothing has changed."""
        before = self.files()
        if os.geteuid() == 0:

            def put(path: Path, data: bytes, **options: Any) -> None:
                raise PermissionError(13, "Permission denied", str(path))

            self.put = put
        else:
            self.site.parent.chmod(0o555)
            self.addCleanup(self.site.parent.chmod, 0o755)
        body = {"path": "conf.d/a.conf", "content": "# x\n"}
        words = await self.refused(self.resource.write_file(FakeRequest(body)), 507)
        self.assertIn("Permission denied", words)
        self.assertEqual(self.files(), before)

    @awaited
    async def test_backups(self) -> None:
        """Old files are kept for their owner alone, where no include of nginx matches."""
        for number in range(12):
            body = {"path": "conf.d/a.conf", "content": f"# {number}\n"}
            answer = await self.resource.write_file(FakeRequest(body))
        [backup] = [Path(name) for name in answer["backups"]]
        self.assertEqual(backup.read_text(), "# 10\n")
        kept = list(backup.parent.iterdir())
        self.assertEqual(len(kept), 10)
        self.assertEqual({path.stat().st_mode & 0o777 for path in kept}, {0o600})
        includes = list(Documents(self.main).includes("http"))
        self.assertEqual(len(includes), 1)
        for path in kept:
            self.assertNotIn(self.home, path.parents)
            self.assertFalse([one for one in includes if one.takes(path)])

    @awaited
    async def test_who_asked_goes_away(self) -> None:
        """A change goes on to its end when nobody waits for it any more."""
        await self.start()
        body = {"path": "conf.d/a.conf", "content": SERVER.format(port=self.port, word="new")}
        asked = Deferred.fromCoroutine(self.resource.write_file(FakeRequest(body)))
        asked.addErrback(lambda failure: None)
        asked.cancel()
        await asked
        other = {"path": "conf.d/b.conf", "content": "# after it\n"}
        await self.resource.write_file(FakeRequest(other))
        await self.serves("new")

    @awaited
    async def test_read(self) -> None:
        """The main file, one file and the list of files can be read."""
        await self.start()
        config = await self.resource.config(FakeRequest())
        self.assertEqual(config["config"], self.main.read_text())
        self.assertEqual(config["path"], str(self.main))
        one = await self.resource.files(FakeRequest(file="conf.d/a.conf"))
        self.assertEqual(one["content"], self.site.read_text())
        files = await self.resource.files(FakeRequest())
        self.assertEqual(files["files"]["main"][0]["path"], str(self.main))
        self.assertEqual([file["name"] for file in files["files"]["conf.d"]], ["a.conf"])
        self.assertEqual({file["name"] for file in files["all"]}, {"nginx.conf", "a.conf"})
        await self.refused(self.resource.files(FakeRequest(file="conf.d/none.conf")), 404)


class SetupTests(NginxCase):
    """nginx/setup-ssl."""

    DOMAIN = "www.example.com"

    async def asked(self, domain: str = DOMAIN, port: int = 0, **others: str) -> dict[str, Any]:
        """Set a site up."""
        site = TLS_SERVER.format(port=port, domain=domain)
        body = {"domain": domain, "domain_config": site, **others}
        return await self.resource.setup_ssl(FakeRequest(body))

    @awaited
    async def test_before_the_certificate(self) -> None:
        """A site is set up before its certificate comes, and serves with one that stands in."""
        await self.start()
        main = self.main.read_bytes()
        port = free_port()
        answer = await self.asked(port=port)
        self.assertTrue(answer["reloaded"], answer)
        self.assertEqual(self.main.read_bytes(), main)
        self.assertEqual(answer["path"], str(self.home / "servers" / "www.example.com.conf"))
        self.assertEqual(await deferToThread(_get, f"https://127.0.0.1:{port}/"), "site")
        key = self.home / "cert" / "www.example.com.key"
        self.assertEqual(key.stat().st_mode & 0o777, 0o600)
        again = await self.asked(port=port)
        self.assertFalse(again["changed"])
        self.assertEqual(again["placeholders"], [])

    @awaited
    async def test_main_file_given(self) -> None:
        """With a main file it is replaced, and gets the include if it lacks it."""
        await self.start()
        main = self.main.read_text().replace("include conf.d/*.conf;", "# }")
        port = free_port()
        answer = await self.asked(port=port, nginx_config=main)
        self.assertEqual(answer["included_by"], str(self.main))
        text = self.main.read_text()
        self.assertEqual(text.replace(f"    include {self.home}/servers/*.conf;\n", ""), main)
        self.assertEqual(await deferToThread(_get, f"https://127.0.0.1:{port}/"), "site")

    @awaited
    async def test_refused(self) -> None:
        """What nginx refuses leaves nothing behind: no site, no certificate, no directory."""
        await self.start()
        before = self.files()
        body = {
            "domain": self.DOMAIN,
            "nginx_config": self.main.read_text() + "# new\n",
            "domain_config": TLS_SERVER.format(port=1, domain=self.DOMAIN) + "wrong;",
        }
        await self.refused(self.resource.setup_ssl(FakeRequest(body)), 422)
        self.assertEqual(self.files(), before)
        self.assertFalse((self.home / "servers").exists() or (self.home / "cert").exists())
        await self.serves("old")

    @awaited
    async def test_our_own_text(self) -> None:
        """Without a text for the site it gets one of ours, which speaks modern TLS only."""
        answer = await self.resource.setup_ssl(FakeRequest({"domain": "*.例え.jp"}))
        self.assertEqual(Path(answer["path"]).name, "_.xn--r8jz45g.jp.conf")
        text = Path(answer["path"]).read_text()
        self.assertIn("ssl_protocols TLSv1.2 TLSv1.3;", text)
        self.assertIn("server_name *.xn--r8jz45g.jp;", text)

    @awaited
    async def test_host_names(self) -> None:
        """What is no host name is refused before anything is written."""
        before = self.files()
        for domain in (
            "a b.com",
            "x.com;}",
            "../x.com",
            "x.com/..",
            "",
            "*",
            "a.*.com",
            "1.2.3.4",
        ):
            body = {"domain": domain, "domain_config": "# x\n"}
            words = await self.refused(self.resource.setup_ssl(FakeRequest(body)), 400)
            self.assertTrue(words.startswith("domain"), words)
        self.assertEqual(self.files(), before)


class ClearTests(NginxCase):
    """nginx/clear-stream-port."""

    @awaited
    async def test_cleared(self) -> None:
        """The stream server gives up the port, and nginx lets go of it."""
        if not STREAM_MODULE.exists():
            self.skipTest("nginx has no stream module here")
        port, other = free_port(), free_port()
        streams = self.home / "stream_servers"
        streams.mkdir()
        one = f"server {{ listen 127.0.0.1:{port}; return a; }}\n"
        two = f"server {{ listen 127.0.0.1:{other}; return b; }}\n"
        (streams / "a.conf").write_text(one + two)
        head = f"load_module {STREAM_MODULE};\n"
        tail = "stream { include stream_servers/*.conf; }\n"
        self.main.write_text(head + self.main.read_text() + tail)
        await self.start()
        main = self.main.read_bytes()
        answer = await self.resource.clear_stream_port(FakeRequest({"port": port}))
        self.assertEqual(answer["removed"], 1)
        self.assertTrue(answer["reloaded"])
        self.assertEqual((streams / "a.conf").read_text(), two)
        self.assertEqual(self.main.read_bytes(), main)
        [backup] = answer["backups"]
        self.assertEqual(Path(backup).read_text(), one + two)
        taken = reactor.listenTCP(port, Factory.forProtocol(Protocol), interface="127.0.0.1")
        self.addCleanup(taken.stopListening)
        again = await self.resource.clear_stream_port(FakeRequest({"port": port}))
        self.assertEqual((again["success"], again["removed"]), (True, 0))

    @awaited
    async def test_other_servers_stay(self) -> None:
        """An HTTP server on that port is none of its business."""
        await self.start()
        before = self.files()
        answer = await self.resource.clear_stream_port(FakeRequest({"port": self.port}))
        self.assertEqual((answer["removed"], answer["files"]), (0, []))
        self.assertEqual(self.files(), before)
        await self.serves("old")


def _get(url: str) -> str:
    insecure = ssl.create_default_context()
    insecure.check_hostname, insecure.verify_mode = False, ssl.CERT_NONE
    try:
        with urllib.request.urlopen(url, timeout=5, context=insecure) as answer:
            return str(answer.read().decode("utf-8"))
    except urllib.error.URLError as problem:
        return f"{problem}"


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0
