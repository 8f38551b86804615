"""
Tests of Xray's configuration in the management API.

All through the door as it is served, in memory: bytes in, bytes out. The files are real; Xray is
not, it says what the test has it say.
"""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import execute
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from mmwagent.host.backups import Backups
from mmwagent.host.ports import NoFreePort
from mmwagent.host.processes import Process
from mmwagent.host.programs import ProgramState
from mmwagent.host.service import Busy, NotInstalled, Refused, ServiceFailed
from mmwagent.manage.routes import Route, resource
from mmwagent.manage.silence import SilentSite
from mmwagent.manage.xray import XrayResource
from mmwagent.xray import apply as apply_module
from mmwagent.xray.apply import XrayApply
from mmwagent.xray.completion import SERVICES
from mmwagent.xray.discovery import Discovery
from mmwagent.xray.inspection import XrayNow
from mmwagent.xray.places import Places
from tests.xray.test_completion import ALL, free_port, whole

CONFIG = "/api/child/xray/config"
FILES = "/api/child/xray/config/files"
SYSTEM = "/api/child/xray/system-config"
SCAN = "/api/child/scan"


class FakeProgram:
    """An Xray that runs if there are processes of it."""

    def binary(self, processes: object = ()) -> str | None:
        """Return where it is."""
        return "/usr/local/bin/xray"

    async def state(self, processes: tuple[Process, ...]) -> ProgramState:
        """Return how it is."""
        return ProgramState(True, bool(processes), "26.3.27")


def table(xray: XrayResource) -> list[Route]:
    """Return the routes as they are served."""
    files = (FILES, "/api/child/xray/config-files")
    return [
        Route("GET", CONFIG, xray.config),
        Route("PUT", CONFIG, xray.put_config),
        Route("POST", CONFIG, xray.put_config),
        *(Route("GET", path, xray.files) for path in files),
        *(Route(verb, path, xray.put_file) for path in files for verb in ("PUT", "POST")),
        Route("GET", SYSTEM, xray.system_config),
        Route("POST", SYSTEM, xray.put_system_config),
        Route("POST", SCAN, xray.scan),
    ]


class XrayCase(SynchronousTestCase):
    """The API in front of a directory with a configuration."""

    def setUp(self) -> None:
        """Make it."""
        self.top = Path(os.path.realpath(self.mktemp()))
        self.directory = self.top / "xray"
        self.directory.mkdir(parents=True)
        self.file = self.directory / "config.json"
        self.file.write_text("{}")
        (self.top / "secret.json").write_text('{"secret": 1}')
        self.discovery = Discovery([str(self.file)])
        self.processes: tuple[Process, ...] = (
            Process(1, "/x/xray", ("xray",), "/", datetime.fromtimestamp(0, UTC)),
        )
        self.restarts = 0
        self.restart_fails: Exception | None = None
        self.check_fails: Exception | None = None
        self.missing: tuple[str, ...] = ()
        self.free_port: Any = free_port
        apply = XrayApply(
            self.check, self.inspect, self.restart, Backups(self.top / "state"), execute
        )
        program: Any = FakeProgram()
        self.resource = XrayResource(
            Places(self.discovery),
            self.inspect,
            program,
            apply,
            lambda preferred, taken: self.free_port(preferred, taken),
            execute,
        )
        self.site = SilentSite(resource(table(self.resource)), lambda head: True, Clock())

    async def check(
        self, path: Path, text: str, *, certificates_may_follow: bool
    ) -> tuple[str, ...]:
        """Check as the test says."""
        if self.check_fails is not None:
            raise self.check_fails
        return self.missing if certificates_may_follow else ()

    async def inspect(self) -> XrayNow:
        """Tell what there is."""
        return XrayNow(self.discovery.look(), self.processes)

    async def restart(self) -> None:
        """Restart as the test says: fail once, or be well."""
        self.restarts += 1
        problem, self.restart_fails = self.restart_fails, None
        if problem is not None:
            raise problem

    def ask(self, line: str, body: bytes = b"") -> tuple[int, Any]:
        """Send a request; return status and JSON of the answer."""
        transport: Any = StringTransport()
        channel: Any = self.site.buildProtocol(transport.getPeer())
        channel.makeConnection(transport)
        head = f"{line} HTTP/1.1\r\nHost: h\r\nContent-Length: {len(body)}\r\n\r\n"
        channel.dataReceived(head.encode("latin-1") + body)
        received, _, content = transport.value().partition(b"\r\n\r\n")
        answer = json.loads(content)
        self.assertEqual(answer["success"], received[9:12] == b"200", answer)
        return int(received[9:12]), answer

    def good(self, line: str, body: Any = b"") -> Any:
        """Send a request that is met; return the answer."""
        status, answer = self.ask(line, body if isinstance(body, bytes) else to_json(body))
        self.assertEqual(status, 200, answer)
        return answer

    def bad(self, line: str, body: Any = b"") -> tuple[int, str]:
        """Send one that is not; return status and error. No file may have changed."""
        before = self.all_files()
        status, answer = self.ask(line, body if isinstance(body, bytes) else to_json(body))
        self.assertEqual(set(answer), {"success", "error"})
        self.assertEqual(self.all_files(), before)
        return status, answer["error"]

    def all_files(self) -> dict[str, bytes]:
        """Return all files that there are, but the copies."""
        found = (path for path in self.top.rglob("*") if "state" not in path.parts)
        return {str(path): path.read_bytes() for path in found if path.is_file()}


def to_json(value: Any) -> bytes:
    """Return a body."""
    return json.dumps(value).encode()


class ReadConfigTests(XrayCase):
    """GET xray/config."""

    def test_read(self) -> None:
        """The text of the file is given as it is, as a text, with its path."""
        text = '// mine 妙\n{"inbounds": [], "a": 1.50}'
        self.file.write_text(text)
        self.assertEqual(
            self.good(f"GET {CONFIG}"), {"success": True, "path": str(self.file), "config": text}
        )

    def test_broken(self) -> None:
        """A file that is no JSON is given as well, so that it can be mended."""
        self.file.write_text('{"inbounds": [')
        self.assertEqual(self.good(f"GET {CONFIG}")["config"], '{"inbounds": [')

    def test_several(self) -> None:
        """With several Xrays the path says which; the first is the default."""
        other = self.top / "two" / "x.json"
        other.parent.mkdir()
        other.write_text('{"two": 2}')
        self.discovery.paths = [str(self.file), str(other)]
        self.assertEqual(self.good(f"GET {CONFIG}")["config"], "{}")
        answer = self.good(f"GET {CONFIG}?path={other}")
        self.assertEqual((answer["path"], answer["config"]), (str(other), '{"two": 2}'))

    def test_none(self) -> None:
        """Where there is no configuration that is told with 404."""
        self.file.unlink()
        status, error = self.bad(f"GET {CONFIG}")
        self.assertEqual(status, 404)
        self.assertIn(str(self.file), error)

    def test_no_text(self) -> None:
        """A file that is no text is not given in pieces."""
        self.file.write_bytes(b'{"a": "\xff"}')
        self.assertEqual(self.bad(f"GET {CONFIG}")[0], 422)


class WriteConfigTests(XrayCase):
    """PUT and POST xray/config."""

    def test_masters_way(self) -> None:
        """A POST writes the text as it is; the master restarts by itself, so it is not done."""
        text = '{"inbounds": [], // mine\n "n": 9007199254740993, "f": 1.50}'
        answer = self.good(f"POST {CONFIG}", {"config": text})
        self.assertEqual(self.file.read_text(), text)
        self.assertEqual(self.restarts, 0)
        backup = answer.pop("backup")
        self.assertEqual(Path(backup).read_text(), "{}")
        self.assertEqual(
            answer,
            {
                "success": True,
                "path": str(self.file),
                "changed": True,
                "restarted": False,
                "applied_at": "next start",
                "message": "written, and in force when Xray is started the next time",
            },
        )

    def test_readmes_way(self) -> None:
        """A PUT restarts a running Xray, be it a text, an object or a bare configuration."""
        for number, body in enumerate(
            (
                b'{"config": "{\\"log\\": {\\"n\\": 1.50}}"}',
                b'{"config": {"log": {"n": 2.50}}}',
                b'{"log": {"n": 3.50}}',
            ),
            1,
        ):
            with self.subTest(body=body):
                answer = self.good(f"PUT {CONFIG}", body)
                self.assertEqual((answer["restarted"], answer["applied_at"]), (True, "now"))
                self.assertEqual(self.restarts, number)
                self.assertIn(f'"n": {number}.50', self.file.read_text())
                self.assertNotIn("config", json.loads(self.file.read_text()))

    def test_the_other_way(self) -> None:
        """The body may say whether to restart."""
        self.good(f"POST {CONFIG}", {"config": '{"log": {}}', "restart": True})
        self.assertEqual(self.restarts, 1)
        self.good(f"PUT {CONFIG}", {"config": "{}", "restart": False})
        self.assertEqual(self.restarts, 1)

    def test_nothing_new(self) -> None:
        """The same once more changes nothing and restarts nothing."""
        answer = self.good(f"PUT {CONFIG}", {"config": "{}"})
        self.assertEqual((answer["changed"], answer["restarted"]), (False, False))
        self.assertEqual((self.restarts, answer["backup"]), (0, ""))

    def test_not_running(self) -> None:
        """An Xray that does not run is not started."""
        self.processes = ()
        answer = self.good(f"PUT {CONFIG}", {"log": {}})
        self.assertEqual((answer["changed"], answer["restarted"]), (True, False))

    def test_a_new_one(self) -> None:
        """Where there is none yet it is made."""
        self.file.unlink()
        answer = self.good(f"POST {CONFIG}", {"config": "{}"})
        self.assertEqual((self.file.read_text(), answer["backup"]), ("{}", ""))

    def test_comments(self) -> None:
        """An object has no comments: that those of the file went is said in the answer."""
        self.file.write_text("{} // mine")
        answer = self.good(f"PUT {CONFIG}", {"log": {}})
        self.assertIn("comments", answer["warning"])

    def test_certificates_that_follow(self) -> None:
        """In the master's way certificates may come later; the answer says which, as a warning."""
        self.missing = ("/cert/a.pem", "/cert/a.key")
        answer = self.good(f"POST {CONFIG}", {"config": '{"log": {}}'})
        self.assertEqual(answer["missing"], ["/cert/a.pem", "/cert/a.key"])
        self.assertIn("/cert/a.key", answer["warning"])
        self.assertNotIn("missing", self.good(f"PUT {CONFIG}", {"config": "{}"}))

    def test_wrong_bodies(self) -> None:
        """What is wrong with a body is told by the name of the field."""
        for body, name in (
            (b"", "the body"),
            (b"[]", "the body"),
            (b"\xff", "the body"),
            (b"{" * 200_000, "the body"),
            ({}, "config"),
            ({"path": str(self.file)}, "config"),
            ({"services": 1}, "config"),
            ({"config": None}, "config"),
            ({"config": 7}, "config"),
            ({"config": []}, "config"),
            ({"config": ""}, "config"),
            ({"config": "{"}, "config"),
            ({"config": "[]"}, "config"),
            ({"config": '{"a": NaN}'}, "config"),
            ({"config": '"\ud800"'}, "config"),
            ({"config": "{}", "path": 7}, "path"),
            ({"config": "{}", "restart": "yes"}, "restart"),
        ):
            with self.subTest(body=body):
                status, error = self.bad(f"POST {CONFIG}", body)
                self.assertEqual(status, 400)
                self.assertTrue(error.startswith(name), error)

    def test_paths(self) -> None:
        """Only a configuration of an Xray here can be written, whatever the path is."""
        other = self.directory / "other.json"
        other.write_text("{}")
        os.symlink(self.top / "secret.json", self.directory / "link.json")
        for path, expected in (
            (str(other), 404),
            ("/etc/passwd", 400),
            (str(self.top / "secret.json"), 400),
            ("../secret.json", 400),
            (f"{self.directory}/../secret.json", 400),
            ("link.json", 400),
            ("%2e%2e/secret.json", 400),
            ("config.json\0", 400),
            ("config.json\0.txt", 400),
        ):
            with self.subTest(path=path):
                body = {"config": "{}", "path": path}
                for answer in (
                    self.bad(f"POST {CONFIG}", body),
                    self.bad(f"GET {CONFIG}?path={quote(path)}"),
                ):
                    self.assertEqual(answer[0], expected)
                    self.assertEqual(answer[1].startswith("path: "), expected == 400, answer)

    def test_path(self) -> None:
        """The path of the configuration itself will do."""
        for number, path in enumerate((str(self.file), "config.json", "./config.json", "", None)):
            config = f'{{"log": {number}}}'
            self.good(f"POST {CONFIG}", {"config": config, "path": path})
            self.assertEqual(self.file.read_text(), config)

    def test_too_large(self) -> None:
        """There is a limit, which is not that of the body alone."""
        self.patch(apply_module, "MAX_BYTES", 10)
        status, error = self.bad(f"POST {CONFIG}", {"config": '{"log": {}}'})
        self.assertEqual(status, 413)
        self.assertTrue(error.startswith("config: "), error)

    def test_refused(self) -> None:
        """What Xray refuses is answered with its words."""
        self.check_fails = Refused("infra/conf: unknown protocol")
        answer = self.bad(f"PUT {CONFIG}", {"config": '{"log": {}}'})
        self.assertEqual(answer, (422, "infra/conf: unknown protocol"))

    def test_rolled_back(self) -> None:
        """That Xray did not start with it, and that the old one is back, is in the answer."""
        self.restart_fails = ServiceFailed("port 443 is taken")
        status, error = self.bad(f"PUT {CONFIG}", {"config": '{"log": {}}'})
        self.assertEqual(status, 422)
        self.assertIn("port 443 is taken", error)
        self.assertIn("the old configuration is back, and Xray runs with it", error)
        self.assertEqual(self.restarts, 2)

    def test_not_installed(self) -> None:
        """Without an Xray to check it nothing is written."""
        self.check_fails = NotInstalled("Xray is not installed")
        answer = self.bad(f"PUT {CONFIG}", {"config": '{"log": {}}'})
        self.assertEqual(answer, (503, "Xray is not installed"))

    def test_busy(self) -> None:
        """While something else is being done with Xray it is a conflict."""
        self.restart_fails = Busy("xray is being restarted already")
        self.assertEqual(self.bad(f"PUT {CONFIG}", {"config": '{"log": {}}'})[0], 409)

    def test_full_disk(self) -> None:
        """A full disk is told as what it is, and no defect of ours."""

        def full(*arguments: object) -> None:
            raise OSError(28, "No space left on device")

        self.patch(apply_module, "write_atomically", full)
        status, error = self.bad(f"PUT {CONFIG}", {"config": '{"log": {}}'})
        self.assertEqual(status, 503)
        self.assertIn("No space left on device", error)


class FilesTests(XrayCase):
    """The files of a configuration, by both spellings."""

    def test_listed(self) -> None:
        """They are listed with name, path, size and time."""
        (self.directory / "conf.d").mkdir()
        (self.directory / "conf.d" / "a b.json").write_text("{ }")
        os.utime(self.directory / "conf.d" / "a b.json", (1_000_000_000.9, 1_000_000_000.9))
        for path in (FILES, "/api/child/xray/config-files"):
            for query in ("", "?file=", "?other=1"):
                answer = self.good(f"GET {path}{query}")
                self.assertEqual(answer["base_dir"], str(self.directory))
                self.assertEqual(
                    [file["name"] for file in answer["files"]], ["conf.d/a b.json", "config.json"]
                )
        self.assertEqual(
            answer["files"][0],
            {
                "name": "conf.d/a b.json",
                "path": str(self.directory / "conf.d" / "a b.json"),
                "size": 3,
                "mod_time": "2001-09-09T01:46:40Z",
            },
        )

    def test_none(self) -> None:
        """Without any directory the list is empty."""
        self.discovery.paths = ["/none/such.json"]
        self.assertEqual(self.good(f"GET {FILES}"), {"success": True, "base_dir": "", "files": []})

    def test_read(self) -> None:
        """One is given by its name or its path, a blank in it being sent as it is or encoded."""
        path = self.directory / "a b" / "c 妙.json"
        path.parent.mkdir()
        path.write_text("{} // mine")
        raw = "a b/c 妙.json".encode().decode("latin-1")
        for name in (raw, quote("a b/c 妙.json"), quote(str(path)), "a+b/c%20%E5%A6%99.json"):
            with self.subTest(name=name):
                answer = self.good(f"GET {FILES}?file={name}")
                self.assertEqual(answer["path"], str(path))
                self.assertEqual(answer["content"], "{} // mine")

    def test_refused(self) -> None:
        """What is not there is 404, what may not be read is 400."""
        os.symlink(self.top / "secret.json", self.directory / "link.json")
        (self.directory / "key.pem").write_text("key")
        for query, expected in (
            ("file=none.json", 404),
            ("file=none/none.json", 404),
            ("file=../secret.json", 400),
            ("file=..%2Fsecret.json", 400),
            ("file=%252e%252e/secret.json", 400),
            ("file=/etc/passwd", 400),
            ("file=link.json", 400),
            ("file=key.pem", 400),
            ("file=config.json%00", 400),
            ("file=%FF.json", 400),
            ("file=" + "x" * 300, 400),
            ("file=a.json&file=b.json", 400),
        ):
            with self.subTest(query=query):
                self.assertEqual(self.bad(f"GET {FILES}?{query}")[0], expected)

    def test_write(self) -> None:
        """One is written as a text or as an object, with both verbs and both spellings."""
        for number, (verb, path, body) in enumerate(
            (
                ("PUT", FILES, {"file": "new.json", "content": "{} // 0"}),
                ("POST", "/api/child/xray/config-files", {"file": "new.json", "content": "{}//1"}),
                ("POST", FILES, {"path": str(self.directory / "new.json"), "content": "{}//2"}),
                ("PUT", f"{FILES}?file=new.json", {"content": "{}//3"}),
                ("PUT", FILES, {"file": "new.json", "content": {"n": 4}}),
            )
        ):
            answer = self.good(f"{verb} {path}", body)
            self.assertEqual(answer["path"], str(self.directory / "new.json"))
            self.assertIn(str(number), (self.directory / "new.json").read_text())
        self.assertEqual(self.restarts, 0)  # it is not known that Xray reads it

    def test_the_configuration_itself(self) -> None:
        """Xray is restarted for its own configuration, as it is by xray/config."""
        self.good(f"POST {FILES}", {"file": "config.json", "content": '{"log": 1}'})
        self.assertEqual(self.restarts, 0)
        self.good(f"PUT {FILES}", {"file": "config.json", "content": '{"log": 2}'})
        self.assertEqual(self.restarts, 1)

    def test_not_written(self) -> None:
        """What is wrong is told, and nothing is written."""
        os.symlink(self.top / "secret.json", self.directory / "link.json")
        os.symlink(self.top, self.directory / "up")
        for body, expected in (
            ({"content": "{}"}, 400),
            ({"file": "", "content": "{}"}, 400),
            ({"file": 7, "content": "{}"}, 400),
            ({"file": "a.json"}, 400),
            ({"file": "a.json", "content": None}, 400),
            ({"file": "a.json", "content": "{"}, 400),
            ({"file": "a.json", "inbounds": []}, 400),
            ({"file": "../secret.json", "content": "{}"}, 400),
            ({"file": "link.json", "content": "{}"}, 400),
            ({"file": "up/secret.json", "content": "{}"}, 400),
            ({"file": "/etc/cron.d/x.json", "content": "{}"}, 400),
            ({"file": "x.sh", "content": "{}"}, 400),
            ({"file": ".x.json", "content": "{}"}, 400),
            ({"file": "a\0.json", "content": "{}"}, 400),
            ({"file": "%2e%2e/x.json", "content": "{}"}, 400),
            ({"file": "none/a.json", "content": "{}"}, 404),
        ):
            with self.subTest(body=body):
                self.assertEqual(self.bad(f"PUT {FILES}", body)[0], expected)

    @given(
        name=st.lists(
            st.sampled_from(["..", "up", "/", "secret.json", "config.json", "new.json", "%2e%2e"]),
            max_size=5,
        ).map("/".join)
    )
    def test_nothing_outside(self, name: str) -> None:
        """Whatever name is sent: no file outside the known directory is read or written."""
        if not os.path.lexists(self.directory / "up"):
            os.symlink(self.top, self.directory / "up")
        self.ask(f"PUT {FILES}", to_json({"file": name, "content": '{"written": 1}'}))
        self.assertEqual((self.top / "secret.json").read_text(), '{"secret": 1}')
        self.assertFalse((self.top / "new.json").exists())
        _, answer = self.ask(f"GET {FILES}?file={quote(name)}")
        self.assertNotIn("secret", answer.get("content", ""))


class SystemConfigTests(XrayCase):
    """GET and POST xray/system-config."""

    def test_read(self) -> None:
        """The five fields of the master, and the paths of the README."""
        self.file.write_text(json.dumps(whole()))
        self.assertEqual(
            self.good(f"GET {SYSTEM}"),
            {
                "success": True,
                "config": {
                    "metrics_enabled": True,
                    "metrics_listen": "127.0.0.1:1234",
                    "stats_enabled": True,
                    "grpc_enabled": True,
                    "grpc_port": 10085,
                },
                "path": str(self.file),
                "config_path": str(self.file),
                "config_dir": str(self.directory),
                "binary_path": "/usr/local/bin/xray",
                "backup_dir": str(self.top / "state"),
            },
        )

    def test_set(self) -> None:
        """What is named is set and Xray restarted; the number of the server does not matter."""
        answer = self.good(f"POST {SYSTEM}", {"metrics_enabled": True, "server_id": 7})
        self.assertEqual(
            json.loads(self.file.read_text()),
            {"metrics": {"tag": "metrics", "listen": "127.0.0.1:38889"}},
        )
        self.assertTrue(answer["config"]["metrics_enabled"])
        self.assertEqual((answer["changed"], answer["restarted"], self.restarts), (True, True, 1))

    def test_set_again(self) -> None:
        """To set what is so already changes nothing, and comments stay."""
        self.file.write_text("{} // mine")
        answer = self.good(f"POST {SYSTEM}", {"stats_enabled": False, "grpc_enabled": False})
        self.assertEqual((answer["changed"], self.restarts), (False, 0))
        self.assertEqual(self.file.read_text(), "{} // mine")

    def test_comments(self) -> None:
        """That an edit has cost the comments is said."""
        self.file.write_text("{} // mine")
        self.assertIn("comments", self.good(f"POST {SYSTEM}", {"stats_enabled": True})["warning"])

    def test_wrong(self) -> None:
        """What is wrong is told by its field, a port that is taken as a conflict."""
        self.file.write_text(json.dumps(whole()))
        for body, expected, name in (
            ({"grpc_port": "x"}, 400, "grpc_port"),
            ({"metrics_listen": "x"}, 400, "metrics_listen"),
            ({"server_id": 1}, 400, "none of the switches"),
            ({}, 400, "none of the switches"),
            (b"", 400, "the body"),
            ({"stats_enabled": True, "path": 1}, 400, "path"),
            ({"stats_enabled": True, "restart": 1}, 400, "restart"),
            ({"stats_enabled": True, "path": "/etc/x.json"}, 400, "path: '/etc/x.json'"),
            ({"grpc_port": 1234}, 409, "grpc_port"),
        ):
            with self.subTest(body=body):
                status, error = self.bad(f"POST {SYSTEM}", body)
                self.assertEqual(status, expected)
                self.assertTrue(error.startswith(name), error)

    def test_broken(self) -> None:
        """A configuration that is none is not the request's fault, and is not overwritten."""
        self.file.write_text("{")
        for answer in (
            self.bad(f"GET {SYSTEM}"),
            self.bad(f"POST {SYSTEM}", {"stats_enabled": True}),
        ):
            self.assertEqual(answer[0], 422)
            self.assertIn("the configuration there", answer[1])

    def test_no_port(self) -> None:
        """That no port is free is told."""

        def none(preferred: int, taken: object) -> int:
            raise NoFreePort("no free port from 38889 on")

        self.free_port = none
        status, error = self.bad(f"POST {SYSTEM}", {"metrics_enabled": True})
        self.assertEqual((status, error), (503, "no free port from 38889 on"))


class ScanTests(XrayCase):
    """POST scan."""

    def test_scan(self) -> None:
        """What is lacking is added, Xray restarted, and told what there is, without keys."""
        inbound = {"tag": "vless", "port": 443, "settings": {"privateKey": "SECRET", "x": 1}}
        self.file.write_text(json.dumps({"inbounds": [inbound]}))
        answer = self.good(f"POST {SCAN}")
        self.assertEqual(answer["added"], list(ALL))
        self.assertEqual((answer["restarted"], self.restarts), (True, 1))
        self.assertEqual(answer["path"], str(self.file))
        self.assertEqual((answer["xray_running"], answer["xray_version"]), (True, "26.3.27"))
        self.assertEqual(answer["inbounds"], [{"tag": "vless", "port": 443, "settings": {"x": 1}}])
        written = json.loads(self.file.read_text())
        self.assertEqual(written["inbounds"][0], inbound)
        self.assertEqual(written["api"]["services"], list(SERVICES))

    def test_again(self) -> None:
        """A second scan adds nothing, writes nothing and restarts nothing."""
        self.good(f"POST {SCAN}")
        before = self.file.stat()
        answer = self.good(f"POST {SCAN}", {})
        self.assertEqual((answer["added"], answer["restarted"]), ([], False))
        self.assertEqual(self.restarts, 1)
        self.assertEqual(self.file.stat(), before)

    def test_not_running(self) -> None:
        """An Xray that does not run is not started by a scan."""
        self.processes = ()
        answer = self.good(f"POST {SCAN}")
        self.assertEqual(answer["added"], list(ALL))
        self.assertEqual((answer["xray_running"], answer["restarted"]), (False, False))

    def test_none(self) -> None:
        """Without a configuration there is nothing to complete, and that is no failure."""
        self.file.unlink()
        answer = self.good(f"POST {SCAN}")
        self.assertEqual((answer["added"], answer["inbounds"], answer["path"]), ([], [], ""))
        self.assertEqual(self.bad(f"POST {SCAN}", {"path": str(self.file)})[0], 404)

    def test_not_installed(self) -> None:
        """Without an Xray nothing can be checked, so nothing is added; the rest is told."""
        self.check_fails = NotInstalled("Xray is not installed")
        answer = self.good(f"POST {SCAN}")
        self.assertEqual((answer["added"], answer["restarted"]), ([], False))
        self.assertIn("not installed", answer["warning"])
        self.assertEqual(self.file.read_text(), "{}")

    def test_refused(self) -> None:
        """What Xray refuses is undone, and the scan says so."""
        self.check_fails = Refused("no")
        self.assertEqual(self.bad(f"POST {SCAN}"), (422, "no"))
        self.check_fails, self.restart_fails = None, ServiceFailed("port taken")
        status, error = self.bad(f"POST {SCAN}")
        self.assertEqual(status, 422)
        self.assertIn("the old configuration is back", error)

    def test_wrong_kinds(self) -> None:
        """A configuration with something else in the place is left for people to judge."""
        self.file.write_text('{"policy": []}')
        status, error = self.bad(f"POST {SCAN}")
        self.assertEqual(status, 422)
        self.assertIn("policy must be", error)

    def test_one_of_several(self) -> None:
        """With several Xrays the path says which to complete; all are told."""
        other = self.directory / "two.json"
        other.write_text('{"inbounds": [{"tag": "two"}]}')
        self.discovery.paths = [str(self.file), str(other)]
        answer = self.good(f"POST {SCAN}", {"path": str(other)})
        self.assertEqual(answer["path"], str(other))
        self.assertEqual(answer["inbounds"], [{"tag": "two"}])
        self.assertEqual(self.file.read_text(), "{}")
