"""A real Xray whose configuration is changed through the management API, well and badly."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import socket
import stat
import sys
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import quote

import treq
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from mmwagent.host import command, programs
from mmwagent.host.backups import Backups
from mmwagent.host.launching import Launch
from mmwagent.host.ports import first_free
from mmwagent.host.processes import Process, Processes
from mmwagent.host.unmanaged import Unmanaged
from mmwagent.manage.control import Control
from mmwagent.manage.routes import resource
from mmwagent.manage.silence import SilentSite
from mmwagent.manage.xray import XrayResource
from mmwagent.testing.xray import configuration, free_port, serving
from mmwagent.xray import apply as apply_module
from mmwagent.xray.apply import XrayApply
from mmwagent.xray.check import XrayCheck
from mmwagent.xray.discovery import Discovery
from mmwagent.xray.inspection import Inspection
from mmwagent.xray.places import Places
from mmwagent.xray.start import XrayStart
from tests.integration.helpers import CHECKOUT, PEERS, USER, Child, ProcessCase, peer, until
from tests.integration.xray_writer import content, is_whole
from tests.manage.test_xray import CONFIG, FILES, SCAN, SYSTEM, table

KILLS = 40


async def unreported(act: Callable[[], Awaitable[None]]) -> None:
    """Act without reports."""
    await act()


class XrayConfigCase(ProcessCase):
    """The parts as the agent has them, on a real reactor, with real requests to them."""

    def setUp(self) -> None:
        """Install Xray with a configuration; it does not run."""
        super().setUp()
        peer("xray")
        self.file = self.place.xray_file
        self.write(self.document())
        self.run_ = partial(command.run, reactor)
        self.program = programs.xray(self.run_)
        self.program.directories = (str(PEERS),)
        discovery = Discovery((str(self.file),), configured=True)
        self.inspection = Inspection(discovery, Processes())
        self.backups = Backups(self.place.directory / "state" / "backups")
        inspect = partial(deferToThread, self.inspection.now)
        self.control = self.make_control(inspect)
        self.check = XrayCheck(self.program, self.run_, inspect, deferToThread)
        self.apply = XrayApply(
            self.check.check,
            inspect,
            partial(self.control.restart, "xray"),
            self.backups,
            deferToThread,
        )
        xray = XrayResource(
            Places(discovery), inspect, self.program, self.apply, first_free, deferToThread
        )
        site = SilentSite(resource(table(xray)), lambda head: True, reactor)
        port = reactor.listenTCP(0, site, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        self.url = f"http://127.0.0.1:{port.getHost().port}"
        self.addCleanup(self.kill)

    def make_control(self, inspect: Callable[[], Deferred[Any]]) -> Control:
        """Return who starts and stops Xray."""
        start = XrayStart(self.program, self.inspection, self.run_, deferToThread)

        async def find(service: str) -> Sequence[Process]:
            return tuple((await inspect()).processes)

        async def launch(service: str) -> Launch | None:
            return await start.launch()

        services = Unmanaged(reactor, self.run_, find, launch, self.place.directory)
        programs_here = {"xray": self.program}
        return Control(reactor, services, programs_here, find, {"xray": start.check}, unreported)

    def document(self, **others: Any) -> dict[str, Any]:
        """Return a configuration with one SOCKS inbound."""
        return {**configuration(self.place.socks, self.place.metrics, USER), **others}

    def write(self, document: dict[str, Any]) -> None:
        """Write Xray's configuration, past the agent."""
        self.file.write_text(json.dumps(document))

    def pids(self) -> list[int]:
        """Return the processes that serve our configuration."""
        processes = self.inspection.now().processes
        # Other tests may run one this moment of which it cannot be told what it serves.
        return [process.pid for process in processes if str(self.file) in process.arguments]

    def kill(self) -> None:
        """End them at once."""
        for pid in self.pids():
            os.kill(pid, signal.SIGKILL)

    async def ask(self, verb: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Send a request; return status and answer."""
        data = None if body is None else json.dumps(body).encode()
        response = await treq.request(verb, self.url + path, data=data, persistent=False)
        answer = await response.json()
        self.assertEqual(answer["success"], response.code == 200, answer)
        return response.code, answer

    async def good(self, verb: str, path: str, body: Any = None) -> Any:
        """Send a request that is met."""
        code, answer = await self.ask(verb, path, body)
        self.assertEqual(code, 200, answer)
        return answer

    async def bad(self, expected: int, verb: str, path: str, body: Any = None) -> str:
        """Send one that is not; the file must be as it was, and nothing new beside it."""
        before = (self.file.read_bytes(), sorted(os.listdir(self.file.parent)))
        code, answer = await self.ask(verb, path, body)
        after = (self.file.read_bytes(), sorted({*os.listdir(self.file.parent)} - {"state"}))
        self.assertEqual(after, (before[0], sorted({*before[1]} - {"state"})))
        self.assertEqual(code, expected, answer)
        return str(answer["error"])

    async def serves(self) -> None:
        """Assert that Xray serves."""
        with serving() as served:
            self.assertGreater(await self.fetch(served, 50_000), 50_000)


class WriteTests(XrayConfigCase):
    """What is written is checked by Xray, and in force or undone."""

    def test_good(self) -> Deferred[None]:
        """A good configuration is written as it is, and Xray serves by it."""
        return Deferred.fromCoroutine(self.write_good())

    async def write_good(self) -> None:
        """Move the SOCKS inbound to another port, in the two ways."""
        await self.control.start("xray")
        self.file.chmod(0o640)
        [old] = self.pids()
        self.place.socks = free_port()
        text = f"// mine\n{json.dumps(self.document())}"
        answer = await self.good("PUT", CONFIG, {"config": text})
        self.assertEqual((answer["restarted"], answer["applied_at"]), (True, "now"))
        self.assertEqual(self.file.read_text(), text)
        self.assertEqual(stat.S_IMODE(self.file.stat().st_mode), 0o640)
        self.assertEqual((await self.good("GET", CONFIG))["config"], text)
        [new] = self.pids()
        self.assertNotEqual(old, new)
        await self.serves()
        again = await self.good("PUT", CONFIG, {"config": text})
        self.assertEqual((again["changed"], self.pids()), (False, [new]))
        await self.masters_way()

    async def masters_way(self) -> None:
        """Write by POST, which leaves the restart to the master."""
        [old] = self.pids()
        self.place.socks = free_port()
        answer = await self.good("POST", CONFIG, {"config": json.dumps(self.document())})
        self.assertEqual((answer["restarted"], answer["applied_at"]), (False, "next start"))
        self.assertEqual(self.pids(), [old])
        await self.control.restart("xray")
        await self.serves()

    def test_refused(self) -> Deferred[None]:
        """What Xray refuses is answered in its words, and the Xray that runs is left alone."""
        return Deferred.fromCoroutine(self.write_refused())

    async def write_refused(self) -> None:
        """Write what is wrong in several ways."""
        await self.control.start("xray")
        pids = self.pids()
        good = self.document()
        inbound = good["inbounds"][0]
        twice = {"rules": [{"inboundTag": ["x"], "balancerTag": "none"}]}
        for document, words in (
            ({"inbounds": [{**inbound, "protocol": "nope"}]}, "nope"),
            ({"inbounds": [inbound, inbound]}, "socks-in"),
            ({"routing": twice}, "none"),
            ({"inbounds": {}}, "inbounds"),
        ):
            body = {"config": json.dumps({**good, **document})}
            for verb in ("PUT", "POST"):
                error = await self.bad(422, verb, CONFIG, body)
                self.assertIn(words, error)
                self.assertNotIn("Failed to start", error)
        for config in ("{", "[]", '{"log": }', "x" * 9):
            await self.bad(400, "PUT", CONFIG, {"config": config})
        self.assertEqual(self.pids(), pids)
        self.assertEqual(self.backups.of(self.file), [])
        await self.serves()

    def test_rolled_back(self) -> Deferred[None]:
        """Where the restart fails the old configuration is back, and Xray serves by it."""
        return Deferred.fromCoroutine(self.roll_back())

    async def roll_back(self) -> None:
        """Write a configuration that only a start can find fault with: its port is taken."""
        await self.control.start("xray")
        inbound = self.document()["inbounds"][0]
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            document = self.document(inbounds=[{**inbound, "port": port}])
            error = await self.bad(422, "PUT", CONFIG, document)
        self.assertIn("address already in use", error)
        self.assertTrue(error.endswith("the old configuration is back, and Xray runs with it"))
        self.assertEqual(len(self.pids()), 1)
        await self.serves()

    def test_relative_paths(self) -> Deferred[None]:
        """What Xray was told by its environment holds in the check as for the one that runs."""
        return Deferred.fromCoroutine(self.relative())

    async def relative(self) -> None:
        """Name a certificate by a relative path, which hangs on a variable."""
        for name in ("c.pem", "c.key"):
            (self.place.directory / name).write_text("no certificate")
        body = {"config": json.dumps(self.with_certificate("c"))}
        self.assertIn("no such file", await self.bad(422, "PUT", CONFIG, body))
        os.environ["XRAY_LOCATION_CERT"] = str(self.place.directory)
        self.addCleanup(os.environ.pop, "XRAY_LOCATION_CERT", None)
        await self.control.start("xray")
        del os.environ["XRAY_LOCATION_CERT"]
        answer = await self.good("PUT", CONFIG, body)
        self.assertTrue(answer["restarted"])

    def test_certificates_that_follow(self) -> Deferred[None]:
        """In the master's way, the certificates may come after the configuration."""
        return Deferred.fromCoroutine(self.certificates_follow())

    async def certificates_follow(self) -> None:
        """Name certificates that are not there."""
        await self.control.start("xray")
        names = [f"{self.place.directory}/none.{end}" for end in ("pem", "key")]
        config = json.dumps(self.with_certificate(f"{self.place.directory}/none"))
        self.assertIn("no such file", await self.bad(422, "PUT", CONFIG, {"config": config}))
        answer = await self.good("POST", CONFIG, {"config": config})
        self.assertEqual(answer["missing"], names)
        self.assertEqual(self.file.read_text(), config)
        await self.serves()

    def with_certificate(self, name: str) -> dict[str, Any]:
        """Return a configuration that names a certificate and its key."""
        certificate = {"certificateFile": f"{name}.pem", "keyFile": f"{name}.key"}
        tls = {"security": "tls", "tlsSettings": {"certificates": [certificate]}}
        inbound = self.document()["inbounds"][0]
        return self.document(inbounds=[{**inbound, "streamSettings": tls}])

    def test_paths(self) -> Deferred[None]:
        """No way of writing a path leads out, for reads and writes."""
        return Deferred.fromCoroutine(self.lead_out())

    async def lead_out(self) -> None:
        """Try them over a real connection."""
        secret = self.place.directory.parent / f"{self.place.directory.name}-secret.json"
        secret.write_text('{"secret": 1}')
        self.addCleanup(secret.unlink)
        os.symlink(secret, self.file.parent / "link.json")
        os.symlink("/etc", self.file.parent / "etc")
        names = (
            f"../{secret.name}",
            str(secret),
            "link.json",
            "etc/x.json",
            "/etc/passwd",
            f"..%2f{secret.name}",
            "%252e%252e/x.json",
            "xray.json\0",
            "\0/../x.json",
        )
        for name in names:
            for query in {quote(name), quote(name, safe=""), name.replace("\0", "%00")}:
                await self.bad(400, "GET", f"{FILES}?file={query}")
                await self.bad(400, "GET", f"{CONFIG}?path={query}")
            for verb in ("PUT", "POST"):
                await self.bad(400, verb, FILES, {"file": name, "content": "{}"})
                await self.bad(400, verb, CONFIG, {"path": name, "config": '{"log": {}}'})
        self.assertEqual(secret.read_text(), '{"secret": 1}')


class ScanTests(XrayConfigCase):
    """A scan makes an Xray that can be watched and managed."""

    def test_scan(self) -> Deferred[None]:
        """A bare Xray gets counters and an API, and goes on to serve; once is enough."""
        return Deferred.fromCoroutine(self.scan())

    async def scan(self) -> None:
        """Scan twice, and look at what the first has made."""
        bare = {name: self.document()[name] for name in ("inbounds", "outbounds")}
        self.write({"policy": {"levels": {"0": {"connIdle": 77}}}, **bare})
        await self.control.start("xray")
        answer = await self.good("POST", SCAN)
        self.assertEqual(len(answer["added"]), 6, answer)
        self.assertTrue(answer["restarted"] and answer["xray_running"])
        self.assertEqual(answer["inbounds"], bare["inbounds"])
        pids, before = self.pids(), self.file.stat()
        await self.serves()
        stands = (await self.good("GET", SYSTEM))["config"]
        await self.counted(stands)
        again = await self.good("POST", SCAN)
        self.assertEqual((again["added"], again["restarted"]), ([], False))
        self.assertEqual((self.pids(), self.file.stat()), (pids, before))
        written = json.loads(self.file.read_text())
        self.assertEqual(written["policy"]["levels"]["0"]["connIdle"], 77)
        self.assertEqual(written["outbounds"], bare["outbounds"])

    async def counted(self, stands: dict[str, Any]) -> None:
        """Assert that Xray counts, users too, and that its API listens."""
        url = f"http://{stands['metrics_listen']}/debug/vars"

        async def stats() -> Any:
            return (await (await treq.get(url, persistent=False)).json())["stats"]

        counters = await stats()
        self.assertGreater(counters["inbound"]["socks-in"]["downlink"], 50_000)
        self.assertGreater(counters["user"][USER]["downlink"], 50_000)
        with socket.create_connection(("127.0.0.1", stands["grpc_port"]), 5):
            pass

    def test_direct_api(self) -> Deferred[None]:
        """An API that listens by itself is left so: no inbound, no rule."""
        return Deferred.fromCoroutine(self.direct_api())

    async def direct_api(self) -> None:
        """Scan an Xray with such an API."""
        listen = f"127.0.0.1:{free_port()}"
        self.write(self.document(api={"tag": "mine", "listen": listen, "services": []}))
        await self.control.start("xray")
        answer = await self.good("POST", SCAN)
        self.assertEqual(answer["added"], ["api"])
        written = json.loads(self.file.read_text())
        self.assertEqual(len(written["inbounds"]), 1)
        self.assertNotIn("routing", written)
        await self.serves()

    def test_ports_in_use(self) -> Deferred[None]:
        """Ports that others on this machine have are not taken."""
        return Deferred.fromCoroutine(self.ports_in_use())

    async def ports_in_use(self) -> None:
        """Scan while somebody has the ports that would be taken."""
        self.write({"inbounds": self.document()["inbounds"]})
        held = []
        for port in (46736, 38889):
            try:
                held.append(socket.create_server(("127.0.0.1", port)))
            except OSError as error:  # somebody else has it, which is as good
                self.assertEqual(error.errno, errno.EADDRINUSE)
        try:
            await self.control.start("xray")
            answer = await self.good("POST", SCAN)
            stands = (await self.good("GET", SYSTEM))["config"]
        finally:
            for server in held:
                server.close()
        self.assertTrue(answer["restarted"])
        self.assertGreater(stands["grpc_port"], 46736)
        self.assertGreater(int(stands["metrics_listen"].rpartition(":")[2]), 38889)

    def test_switches(self) -> Deferred[None]:
        """Xray takes what each setting of the switches makes of a configuration."""
        return Deferred.fromCoroutine(self.switch())

    async def switch(self) -> None:
        """Set them in all ways; nothing runs, so each is checked only."""
        names = ("metrics_enabled", "stats_enabled", "grpc_enabled")
        ways = list(product((True, False), repeat=3))
        random.Random(7).shuffle(ways)
        for way in ways:
            wanted = dict(zip(names, way, strict=True))
            answer = await self.good("POST", SYSTEM, {**wanted, "server_id": 1})
            self.assertEqual({name: answer["config"][name] for name in names}, wanted)


class DiskTests(XrayConfigCase):
    """A disk that takes nothing, and a writer that is killed."""

    def test_full(self) -> Deferred[None]:
        """On a full disk the old file stays whole, and so does the Xray that runs."""
        return Deferred.fromCoroutine(self.full())

    async def full(self) -> None:
        """Write more than the disk takes, then less."""
        if not await self.on_a_disk("size=256k"):
            self.patch(apply_module, "write_atomically", failing(errno.ENOSPC))
        await self.control.start("xray")
        pids = self.pids()
        padding = "// padding\n" * 30_000
        large = f"{json.dumps(self.document())}\n{padding}"
        for verb in ("PUT", "POST"):
            error = await self.bad(503, verb, CONFIG, {"config": large})
            self.assertIn("No space left on device", error)
            self.assertIn("it is as it was", error)
        self.assertEqual(self.pids(), pids)
        await self.serves()

    def test_no_room_for_a_copy(self) -> Deferred[None]:
        """Where the old content cannot be kept it is not replaced."""
        return Deferred.fromCoroutine(self.no_copy())

    async def no_copy(self) -> None:
        """Let the directory of copies be a file."""
        self.backups.directory.parent.mkdir()
        self.backups.directory.write_text("no directory")
        self.assertIn("cannot back up", await self.bad(503, "PUT", CONFIG, {"log": {}}))

    def test_read_only(self) -> Deferred[None]:
        """In a directory that cannot be written to all stays as it is, and that is told."""
        return Deferred.fromCoroutine(self.read_only())

    async def read_only(self) -> None:
        """Make it so, by a mount or by its mode."""
        if await self.on_a_disk("size=256k"):
            await self.root("mount", "-o", "remount,ro", str(self.file.parent))
        elif os.geteuid():
            self.file.parent.chmod(0o555)
            self.addCleanup(self.file.parent.chmod, 0o755)
        else:
            self.patch(apply_module, "write_atomically", failing(errno.EROFS))
        for verb, path, body in (
            ("PUT", CONFIG, {"log": {}}),
            ("POST", CONFIG, {"config": "{}"}),
            ("POST", SYSTEM, {"stats_enabled": False}),
            ("PUT", FILES, {"file": "new.json", "content": "{}"}),
        ):
            self.assertIn("cannot write", await self.bad(503, verb, path, body))

    async def on_a_disk(self, options: str) -> bool:
        """Move the configuration to a disk of its own; tell whether that could be done."""
        directory = self.place.directory / "xray-disk"
        directory.mkdir()
        if not await self.root("mount", "-t", "tmpfs", "-o", options, "tmpfs", str(directory)):
            return False
        self.addCleanup(self.root, "umount", "-l", str(directory))
        self.addCleanup(self.kill)
        self.file = directory / "config.json"
        self.inspection.discovery.paths = (str(self.file),)
        self.write(self.document())
        return True

    def root(self, *command_: str) -> Deferred[bool]:
        """Run what only root may run; tell whether it was done."""
        return self.run_(command_, timeout=10).addCallback(lambda end: end.succeeded)

    def test_killed(self) -> Deferred[None]:
        """A writer killed at any moment leaves a whole file, and its copies are whole as well."""
        return Deferred.fromCoroutine(self.kill_writers())

    async def kill_writers(self) -> None:
        """Kill one writer after the other, each some moments after its first write."""
        moments = random.Random(5)
        self.file.write_text(content(0))
        written = 0
        for _ in range(KILLS):
            child = self.writer()
            await until(lambda c=child: c.said.count(b"\n") >= 2 or c.ended.called, "a write")
            await deferLater(reactor, moments.uniform(0, 0.1))
            child.signal("KILL")
            await child.ended
            self.assertNotIn("Error", child.text)
            written += child.said.count(b"True")
            self.assertTrue(is_whole(self.file.read_text()), "a torn file")
            for copy in self.backups.of(self.file):
                self.assertTrue(is_whole(copy.read_text()), f"a torn copy {copy}")
        self.assertGreater(written, KILLS)
        self.assertEqual(stat.S_IMODE(self.file.stat().st_mode), 0o644)
        await self.good("PUT", CONFIG, {"config": json.dumps(self.document())})
        self.assertEqual(self.left_behind(), [])

    def writer(self) -> Child:
        """Start a writer."""
        return self.child(
            *(sys.executable, "-m", "tests.integration.xray_writer"),
            *(str(self.file), str(self.backups.directory)),
            PYTHONPATH=str(CHECKOUT),
        )

    def left_behind(self) -> list[Path]:
        """Return what was left beside the file by writers that were killed."""
        return list(self.file.parent.glob(f".{self.file.name}.*"))


def failing(number: int) -> Callable[..., None]:
    """Return a way of writing that fails as the system does."""

    def fail(*arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail
