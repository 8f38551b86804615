"""Tests of nginx's configuration over the management API."""

from __future__ import annotations

import json
import os
from errno import ENOSPC
from io import BytesIO
from pathlib import Path
from typing import Any

from twisted.internet.defer import execute

from mmwagent.host.service import Busy, ServiceFailed
from mmwagent.manage.errors import ApiError
from mmwagent.manage.nginx import NginxResource
from mmwagent.nginx.documents import LARGEST_FILE
from mmwagent.nginx.layout import Layout
from tests.nginx.helpers import HTTP, NOW, FakeNginx, NginxFiles, done, refusal


class FakeRequest:
    """What the handlers look at of a request."""

    def __init__(self, body: Any, query: dict[str, str | bytes]) -> None:
        self.content = BytesIO(b"" if body is None else json.dumps(body).encode("ascii"))
        self.args = {
            name.encode("ascii"): [value.encode("utf-8") if isinstance(value, str) else value]
            for name, value in query.items()
        }


def asked(body: Any = None, **query: str | bytes) -> Any:
    """Return a request with `body` and `query`."""
    return FakeRequest(body, query)


class NginxCase(NginxFiles):
    """A test with a fake nginx and its files."""

    def setUp(self) -> None:
        """Lay two files out."""
        super().setUp()
        self.lay_out({"nginx.conf": HTTP, "conf.d/a.conf": "a;\n"})
        self.before = self.laid_out()
        self.nginx = FakeNginx(self.layout, self.home.parent / "backups")
        self.resource = NginxResource(self.nginx.apply, execute, lambda: NOW)

    def answer(self, work: Any) -> dict[str, Any]:
        """Return the answer, which JSON can hold."""
        answer: dict[str, Any] = self.successResultOf(done(work))
        json.dumps(answer, allow_nan=False)
        self.assertIs(answer["success"], True)
        return answer

    def refused(self, work: Any, status: int) -> str:
        """Check that it fails with `status`, the files being as they were; return the words."""
        problem = self.failureResultOf(done(work), ApiError).value
        self.assertEqual(problem.status, status, problem.error)
        self.assertEqual(self.laid_out(), self.before)
        return str(problem.error)


class ConfigTests(NginxCase):
    """nginx/config."""

    def test_read(self) -> None:
        """The main file comes as text, with its path; another one by its path."""
        self.assertEqual(
            self.answer(self.resource.config(asked())),
            {"success": True, "path": str(self.main), "config": HTTP},
        )
        answer = self.answer(self.resource.config(asked(path="conf.d/a.conf")))
        self.assertEqual(answer["config"], "a;\n")

    def test_write(self) -> None:
        """The main file is replaced; the answer says what became of it."""
        answer = self.answer(self.resource.write_config(asked({"config": HTTP + "# ä\n"})))
        self.assertEqual(self.main.read_text(), HTTP + "# ä\n")
        self.assertEqual((answer["changed"], answer["reloaded"]), (True, False))
        self.assertEqual(answer["path"], str(self.main))
        self.assertIn("does not run", answer["message"])
        self.assertEqual(Path(answer["backups"][0]).read_text(), HTTP)

    def test_write_running(self) -> None:
        """A running nginx takes it over."""
        self.nginx.start()
        answer = self.answer(self.resource.write_config(asked({"config": "x;", "path": None})))
        self.assertTrue(answer["reloaded"])
        self.assertIn("runs with it", answer["message"])
        answer = self.answer(self.resource.write_config(asked({"config": "x;"})))
        self.assertFalse(answer["changed"] or answer["reloaded"])
        self.assertIn("nothing was changed", answer["message"])

    def test_write_path(self) -> None:
        """A path names another file."""
        self.answer(self.resource.write_config(asked({"config": "b;", "path": "conf.d/b.conf"})))
        self.assertEqual(self.laid_out()["conf.d/b.conf"], "b;")

    def test_round_trip(self) -> None:
        """What is no UTF-8 can be read and written back unchanged."""
        self.main.write_bytes(b"# \xff\xe4\n")
        text = self.answer(self.resource.config(asked()))["config"]
        answer = self.answer(self.resource.write_config(asked({"config": text})))
        self.assertFalse(answer["changed"])

    def test_bad_bodies(self) -> None:
        """What is wrong with a body is told with the name of its field."""
        for body, field in (
            ({}, "config"),
            ({"config": 1}, "config"),
            ({"config": None}, "config"),
            ({"config": "a\0"}, "config"),
            ({"config": "\ud800"}, "config"),
            ({"config": "", "path": 1}, "path"),
            ({"config": "", "path": ""}, "path"),
            ({"config": "", "path": "../x"}, "path"),
            ({"config": "", "path": "/etc/passwd"}, "path"),
            ([], "the body"),
            (None, "the body"),
        ):
            words = self.refused(self.resource.write_config(asked(body)), 400)
            self.assertTrue(words.startswith(field), (body, words))

    def test_too_large(self) -> None:
        """A file has a limit, in bytes."""
        body = {"config": "ä" * (LARGEST_FILE // 2 + 1)}
        self.refused(self.resource.write_config(asked(body)), 413)

    def test_refused(self) -> None:
        """nginx's own words are in the answer, which says that nothing was changed."""
        self.nginx.answers = [refusal("[emerg] unknown directive")]
        words = self.refused(self.resource.write_config(asked({"config": "x;"})), 422)
        self.assertIn("[emerg] unknown directive", words)
        self.assertIn("nothing was changed", words)

    def test_failures(self) -> None:
        """Each way to fail has its status."""
        self.nginx.start()
        for problem, status in ((Busy("busy"), 409), (ServiceFailed("no"), 502)):
            self.nginx.reload_fails = problem
            words = self.refused(self.resource.write_config(asked({"config": "x;"})), status)
            self.assertIn(str(problem), words)

        def full(*arguments: Any, **options: Any) -> None:
            raise OSError(ENOSPC, os.strerror(ENOSPC))

        self.nginx.put = full
        words = self.refused(self.resource.write_config(asked({"config": "x;"})), 507)
        self.assertIn("No space left on device", words)
        self.nginx.layout = None
        for work in (
            self.resource.config(asked()),
            self.resource.files(asked()),
            self.resource.write_config(asked({"config": "x;"})),
            self.resource.clear_stream_port(asked({"port": 443})),
            self.resource.setup_ssl(asked({"domain": "a.b"})),
        ):
            self.refused(work, 503)

    def test_no_main_file(self) -> None:
        """A main file that is not there is a 404 that names it."""
        self.nginx.layout = Layout(None, self.home, self.home / "none.conf")
        words = self.refused(self.resource.config(asked()), 404)
        self.assertIn("none.conf", words)


class FilesTests(NginxCase):
    """nginx/config/files."""

    def test_list(self) -> None:
        """Files stand by directory, and all in one list."""
        os.utime(self.main, (NOW.timestamp(), NOW.timestamp()))
        answer = self.answer(self.resource.files(asked(file="")))
        main = {
            "name": "nginx.conf",
            "path": str(self.main),
            "size": len(HTTP),
            "mod_time": "2026-05-01T12:00:00Z",
        }
        self.assertEqual(answer["files"]["main"], [main])
        self.assertEqual([file["name"] for file in answer["files"]["conf.d"]], ["a.conf"])
        self.assertEqual(answer["all"], [main, *answer["files"]["conf.d"]])
        self.assertEqual(answer["base_dir"], str(self.home))

    def test_one(self) -> None:
        """One file is read by its name or its path."""
        for name in ("conf.d/a.conf", str(self.home / "conf.d" / "a.conf")):
            answer = self.answer(self.resource.files(asked(file=name)))
            self.assertEqual(answer["content"], "a;\n")
            self.assertEqual(answer["path"], str(self.home / "conf.d" / "a.conf"))

    def test_not_there(self) -> None:
        """A file that is not there is a 404, one that may not be read a 400."""
        self.refused(self.resource.files(asked(file="conf.d/none.conf")), 404)
        for name in ("../x", "/etc/passwd", "a\0", b"\xff", "cert/a.key", "conf.d"):
            words = self.refused(self.resource.files(asked(file=name)), 400)
            self.assertTrue(words.startswith("file"), words)

    def test_write(self) -> None:
        """A file is named in the body as path or file, or in the query."""
        for number, (fields, query) in enumerate(
            (
                ({"path": "conf.d/a.conf"}, {}),
                ({"file": "conf.d/a.conf"}, {}),
                ({"path": "conf.d/a.conf", "file": "ignored"}, {}),
                ({}, {"file": "conf.d/a.conf"}),
                ({"file": None}, {"file": "conf.d/a.conf"}),
            )
        ):
            body = {**fields, "content": f"a{number};"}
            self.answer(self.resource.write_file(asked(body, **query)))
            self.assertEqual(self.laid_out()["conf.d/a.conf"], f"a{number};")

    def test_bad_bodies(self) -> None:
        """What is wrong is told with the name of its field."""
        for body, field in (
            ({"content": ""}, "path"),
            ({"path": "x"}, "content"),
            ({"path": "x", "content": 1}, "content"),
            ({"path": 1, "content": ""}, "path"),
            ({"file": [], "content": ""}, "file"),
            ({"file": "../x", "content": ""}, "file"),
        ):
            words = self.refused(self.resource.write_file(asked(body)), 400)
            self.assertTrue(words.startswith(field), (body, words))


class SetupTests(NginxCase):
    """nginx/setup-ssl."""

    def test_site(self) -> None:
        """The site is written and included; the answer says what was added."""
        self.nginx.start()
        text = "server { ssl_certificate cert/a.pem; ssl_certificate_key cert/a.key; }"
        body = {"domain": "WWW.Example.com", "domain_config": text, "nginx_config": None}
        answer = self.answer(self.resource.setup_ssl(asked(body)))
        files = self.laid_out()
        self.assertEqual(files["servers/www.example.com.conf"], text)
        self.assertEqual(files["nginx.conf"], HTTP)
        self.assertEqual(answer["domain"], "www.example.com")
        self.assertEqual(answer["path"], str(self.home / "servers/www.example.com.conf"))
        self.assertEqual(answer["included_by"], str(self.home / "conf.d/mmw-servers.conf"))
        self.assertEqual(
            answer["placeholders"], [str(self.home / "cert" / name) for name in ("a.pem", "a.key")]
        )
        self.assertEqual(self.nginx.reloads, 1)
        again = self.answer(self.resource.setup_ssl(asked(body)))
        self.assertEqual((again["changed"], again["included_by"]), (False, ""))

    def test_main_file(self) -> None:
        """With a main file both change as one, or neither does."""
        body = {"domain": "a.b", "domain_config": "s;", "nginx_config": HTTP + "# new\n"}
        self.nginx.answers = [refusal("no"), *self.nginx.answers]
        self.refused(self.resource.setup_ssl(asked(body)), 422)
        self.answer(self.resource.setup_ssl(asked(body)))
        files = self.laid_out()
        self.assertEqual(files["servers/a.b.conf"], "s;")
        self.assertTrue(files["nginx.conf"].endswith("# new\n"))

    def test_no_place(self) -> None:
        """A main file without an http block is refused."""
        body = {"domain": "a.b", "domain_config": "s;", "nginx_config": "events {}"}
        self.refused(self.resource.setup_ssl(asked(body)), 422)

    def test_bad_bodies(self) -> None:
        """What is wrong is told with the name of its field."""
        for body, field in (
            ({}, "domain"),
            ({"domain": 1}, "domain"),
            ({"domain": "a;b.c"}, "domain"),
            ({"domain": "../../a.b"}, "domain"),
            ({"domain": "a.b", "domain_config": 1}, "domain_config"),
            ({"domain": "a.b", "domain_config": ""}, "domain_config"),
            ({"domain": "a.b", "domain_config": "\0"}, "domain_config"),
            ({"domain": "a.b", "nginx_config": []}, "nginx_config"),
        ):
            words = self.refused(self.resource.setup_ssl(asked(body)), 400)
            self.assertTrue(words.startswith(field), (body, words))


class ClearTests(NginxCase):
    """nginx/clear-stream-port."""

    def setUp(self) -> None:
        """Add a stream server."""
        super().setUp()
        self.lay_out(
            {
                "nginx.conf": HTTP + "stream { include stream_servers/*.conf; }",
                "stream_servers/a.conf": "server { listen 443; }\n",
            }
        )
        self.before = self.laid_out()

    def test_cleared(self) -> None:
        """The answer counts the servers that gave the port up."""
        self.nginx.start()
        answer = self.answer(self.resource.clear_stream_port(asked({"port": 443})))
        self.assertEqual((answer["removed"], answer["reloaded"]), (1, True))
        self.assertEqual(answer["files"], [str(self.home / "stream_servers/a.conf")])
        self.assertEqual(self.laid_out()["stream_servers/a.conf"], "")
        answer = self.answer(self.resource.clear_stream_port(asked({"port": 443})))
        self.assertEqual((answer["removed"], self.nginx.reloads), (0, 1))

    def test_refused(self) -> None:
        """Where nginx refuses the rest the servers stay."""
        self.nginx.answers = [refusal("no")]
        self.refused(self.resource.clear_stream_port(asked({"port": 443})), 422)

    def test_bad_ports(self) -> None:
        """A port is a whole number."""
        for port in (None, "443", 443.0, True, 0, -1, 65536, [443]):
            words = self.refused(self.resource.clear_stream_port(asked({"port": port})), 400)
            self.assertTrue(words.startswith("port"))
