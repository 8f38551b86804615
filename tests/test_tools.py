"""The developer's commands: the test runner's tally, and how the real programs are fetched."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import subprocess  # noqa: TID251
import sys
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

from twisted.trial.unittest import SynchronousTestCase

TOOLS = Path(__file__).resolve().parent.parent / "tools"


def load(name: str) -> ModuleType:
    """Import one of the tools, which have no .py ending."""
    loader = SourceFileLoader(f"tools_{name}", str(TOOLS / name))
    spec = spec_from_loader(loader.name, loader)
    assert spec is not None
    module = module_from_spec(spec)
    sys.modules[loader.name] = module  # dataclasses look their module up there
    kept, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # no tools/peersc
    try:
        loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = kept
    return module


trial = load("trial")
peers = load("peers")


def last_lines(output: str) -> list[str]:
    """The lines of an output."""
    return output.rstrip("\n").split("\n")


class TrialRunTests(SynchronousTestCase):
    """`tools/trial`, run on small test modules made for the purpose."""

    def run_on(self, body: str, *options: str, **variables: str) -> tuple[int, list[str]]:
        """Run it on a module with this body; exit status and lines."""
        place = Path(self.mktemp())
        place.mkdir()
        source = "import os, signal, sys, time\nfrom twisted.trial import unittest\n"
        if body:
            (place / "test_sample.py").write_text(source + body, encoding="utf-8")
        env = {k: v for k, v in os.environ.items() if k not in ("CI", "MMW_PEERS")}
        done = subprocess.run(
            [sys.executable, str(TOOLS / "trial"), *options[:2], "test_sample", *options[2:]],
            cwd=place,
            env={**env, **variables},
            input="typed by somebody",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=100,
        )
        return done.returncode, last_lines(done.stdout)

    def case(self, *methods: str) -> str:
        """The text of a test case with these methods, each one line."""
        return "class Sample(unittest.TestCase):\n" + "".join(f"    {m}\n" for m in methods)

    def test_all_pass(self) -> None:
        """Passing tests are counted, and the status is 0."""
        body = self.case("def test_a(self): pass", "def test_b(self): pass")
        status, lines = self.run_on(body)
        self.assertEqual((status, lines[-1]), (0, "2 passed, 0 failed"))

    def test_failure_and_error(self) -> None:
        """A failed assertion and an exception both count as failed, and are named."""
        body = self.case(
            "def test_a(self): pass",
            "def test_b(self): self.fail('no')",
            "def test_c(self): raise ValueError('bad')",
        )
        status, lines = self.run_on(body)
        self.assertEqual((status, lines[-1]), (1, "1 passed, 2 failed"))
        self.assertIn("failed: test_sample.Sample.test_b: failure", lines)
        self.assertIn("failed: test_sample.Sample.test_c: error", lines)

    def test_error_while_cleaning_up_counts_once(self) -> None:
        """A test that fails and then fails to clean up is one failed test."""
        body = self.case(
            "def tearDown(self): raise ValueError('late')",
            "def test_a(self): self.fail('no')",
        )
        self.assertEqual(self.run_on(body)[1][-1], "0 passed, 1 failed")

    def test_skip_is_fine_at_home(self) -> None:
        """A skipped test is counted and named, and outside of CI no failure."""
        body = self.case(
            "def test_a(self): pass", "def test_b(self): raise unittest.SkipTest('no xray')"
        )
        status, lines = self.run_on(body)
        self.assertEqual((status, lines[-1]), (0, "1 passed, 0 failed, 1 skipped"))
        self.assertIn("skipped: test_sample.Sample.test_b: no xray", lines)

    def test_skip_is_bad_in_ci(self) -> None:
        """With CI set, a skipped test makes the status non-zero; the tally stays the same."""
        body = self.case("def test_a(self): raise unittest.SkipTest('no xray')")
        status, lines = self.run_on(body, CI="true")
        self.assertEqual((status, lines[-1]), (1, "0 passed, 0 failed, 1 skipped"))
        self.assertIn("skipped: test_sample.Sample.test_a: no xray", lines)

    def test_todo(self) -> None:
        """An expected failure counts as skipped, one that passes all the same as failed."""
        body = self.case("def test_a(self): self.fail('no')", "test_a.todo = 'later'")
        body += "    def test_b(self): pass\n    test_b.todo = 'later'\n"
        status, lines = self.run_on(body)
        self.assertEqual((status, lines[-1]), (1, "0 passed, 1 failed, 1 skipped"))
        self.assertIn("failed: test_sample.Sample.test_b: unexpected success", lines)
        self.assertIn("skipped: test_sample.Sample.test_a: later", lines)

    def test_module_that_cannot_be_imported(self) -> None:
        """A module with an import error is one failed test, not silence."""
        status, lines = self.run_on("import no_such_module_here\n")
        self.assertEqual((status, lines[-1]), (1, "0 passed, 1 failed"))

    def test_module_that_is_not_there(self) -> None:
        """A name nothing answers to is a failure."""
        status, lines = self.run_on("")
        self.assertEqual((status, lines[-1]), (1, "0 passed, 1 failed"))

    def test_no_tests(self) -> None:
        """A run without a single test fails, and says so."""
        status, lines = self.run_on("VALUE = 1\n")
        self.assertEqual((status, lines[-2:]), (1, ["no test ran", "0 passed, 0 failed"]))

    def test_leaving_by_exit(self) -> None:
        """os._exit(0) in a test counts as failed there, though the process ended with 0."""
        body = self.case("def test_a(self): pass", "def test_b(self): os._exit(0)")
        status, lines = self.run_on(body)
        self.assertEqual(status, 1)
        self.assertIn("failed: test_sample.Sample.test_b: no result (the process left)", lines)
        self.assertEqual(lines[-1], "1 passed, 1 failed")

    def test_killed(self) -> None:
        """A run killed by a signal counts as failed, and the signal is named."""
        body = self.case("def test_a(self): os.kill(os.getpid(), signal.SIGKILL)")
        status, lines = self.run_on(body)
        self.assertEqual((status, lines[-1]), (1, "0 passed, 1 failed"))
        self.assertIn("test_sample.Sample.test_a: no result (killed by SIGKILL)", lines[-2])

    def test_interrupt_inside_a_test(self) -> None:
        """KeyboardInterrupt from a test, after which trial itself reports success, has failed."""
        body = self.case("def test_a(self): raise KeyboardInterrupt", "def test_b(self): pass")
        status, lines = self.run_on(body)
        self.assertEqual(status, 1)
        self.assertNotIn(", 0 failed", lines[-1])

    def test_hung(self) -> None:
        """A run over its limit is ended, and shows where it hung."""
        body = self.case("def test_a(self): time.sleep(60)")
        status, lines = self.run_on(body, "--limit", "4")
        self.assertEqual((status, lines[-1]), (1, "0 passed, 1 failed"))
        self.assertIn("no result (not done after 4 s)", "\n".join(lines))
        self.assertIn("in test_a", "\n".join(lines))

    def test_process_left_behind(self) -> None:
        """A program that a test left running is ended, so that it cannot hold the output."""
        body = "import subprocess\n" + self.case(
            "def test_a(self): subprocess.Popen(['sh', '-c', 'sleep 60; echo late'])"
        )
        status, lines = self.run_on(body)  # would run into the time-out
        self.assertEqual((status, lines[-1]), (0, "1 passed, 0 failed"))

    def test_a_test_that_prints_a_tally(self) -> None:
        """What tests print is never taken for the result."""
        body = self.case("def test_a(self): print('PASSED (successes=9)\\n9 passed, 0 failed')")
        self.assertEqual(self.run_on(body)[1][-1], "1 passed, 0 failed")

    def test_environment(self) -> None:
        """Tests see where the peers are, may write compiled files, and have no standard input."""
        body = self.case(
            "def test_a(self): self.assertTrue(os.path.isabs(os.environ['MMW_PEERS']))",
            "def test_b(self): self.assertNotIn('PYTHONDONTWRITEBYTECODE', os.environ)",
            "def test_c(self): self.assertEqual(sys.stdin.read(), '')",
        )
        status, lines = self.run_on(body, PYTHONDONTWRITEBYTECODE="1")
        self.assertEqual((status, lines[-1]), (0, "3 passed, 0 failed"))

    def test_options_for_trial(self) -> None:
        """What follows -- goes to trial; with workers the count is the same."""
        body = self.case("def test_a(self): pass", "def test_b(self): self.fail('no')")
        status, lines = self.run_on(body, "--limit", "60", "--", "--jobs=2")
        self.assertEqual((status, lines[-1]), (1, "1 passed, 1 failed"))

    def test_option_trial_refuses(self) -> None:
        """An option trial does not know gives no tally of zero failures."""
        body = self.case("def test_a(self): pass")
        status, lines = self.run_on(body, "--limit", "60", "--", "--nonsense")
        self.assertEqual((status, lines[-1]), (1, "0 passed, 1 failed"))


class CountTests(SynchronousTestCase):
    """Counting from a journal."""

    def count(self, *events: tuple[str, str], ended: str = "") -> str:
        """The tally of these events."""
        return str(trial.count([json.dumps([*event, ""]) for event in events], ended))

    def test_success_then_error(self) -> None:
        """An error after the success, from the class's cleaning up, overrules it."""
        events = [("start", "t"), ("passed", "t"), ("error", "t"), ("done", "")]
        self.assertEqual(self.count(*events, ended="exit status 1"), "0 passed, 1 failed")

    def test_error_then_success(self) -> None:
        """The order in which they come does not matter."""
        events = [("start", "t"), ("error", "t"), ("passed", "t"), ("done", "")]
        self.assertEqual(self.count(*events), "0 passed, 1 failed")

    def test_same_name_twice(self) -> None:
        """Two runs of one name, as with --until-failure, are two."""
        events = [("start", "t"), ("passed", "t"), ("start", "t"), ("failure", "t"), ("done", "")]
        self.assertEqual(self.count(*events), "1 passed, 1 failed")

    def test_bad_end_after_all_passed(self) -> None:
        """A process that ends badly after its last test has failed."""
        events = [("start", "t"), ("passed", "t"), ("done", "")]
        self.assertEqual(self.count(*events, ended="exit status 3"), "1 passed, 1 failed")

    def test_stopped_after_all_passed(self) -> None:
        """A run stopped before its last test has failed, though nothing in it did."""
        events = [("start", "t"), ("passed", "t"), ("stopped", "")]
        self.assertEqual(self.count(*events), "1 passed, 1 failed")

    def test_torn_journal(self) -> None:
        """Half a line at the end, from a crash, is no line."""
        tally = trial.count(['["start", "t", ""]', '["pas'], "killed by SIGSEGV")
        self.assertEqual(str(tally), "0 passed, 1 failed")

    def test_crash_between_tests(self) -> None:
        """A run that breaks off while no test runs has a failure of its own."""
        events = [("start", "t"), ("passed", "t")]
        self.assertEqual(self.count(*events, ended="killed by SIGKILL"), "1 passed, 1 failed")
        self.assertEqual(self.count(), "0 passed, 1 failed")

    def test_ci_is_read_as_people_write_it(self) -> None:
        """CI=false and CI=0 mean no, as an empty one does."""
        values = {
            "": False,
            "0": False,
            "false": False,
            "true": True,
            "1": True,
            "woodpecker": True,
        }
        self.assertEqual({value: trial.in_ci({"CI": value}) for value in values}, values)
        self.assertFalse(trial.in_ci({}))


# Stands in for go: says its version, notes that it was called, "builds" a program that runs.
FAKE_GO = """#!/bin/sh
if [ "$1" = version ]; then echo "go version go{version} linux/amd64"; exit 0; fi
echo "$@" >> "{calls}"
echo "env $GOBIN $CGO_ENABLED $GOTOOLCHAIN" >> "{calls}"
{then}
"""
BUILDS = (
    """printf '#!/bin/sh\\necho Xray 26.3.27 fake\\n' > "$GOBIN/main"; chmod +x "$GOBIN/main" """
)


class PeersTests(SynchronousTestCase):
    """`tools/peers`, with a false go."""

    def setUp(self) -> None:
        """An empty place for peers and an own PATH."""
        self.place = Path(self.mktemp()).absolute()
        (self.place / "path").mkdir(parents=True)
        self.into = self.place / "peers"
        self.calls = self.place / "calls"
        kept = {k: v for k, v in os.environ.items() if not k.startswith("MMW_")}
        self.patch(os, "environ", {**kept, "PATH": f"{self.place}/path:/usr/bin:/bin"})
        self.patch(peers, "SYSTEM_GO", self.place / "none")
        self.patch(peers.signal, "signal", lambda number, what: None)

    def program(self, name: str, text: str) -> Path:
        """Put an executable on the PATH."""
        path = self.place / "path" / name
        path.write_text(text, encoding="utf-8")
        path.chmod(0o755)
        return path

    def fake_go(self, version: str = "1.26.8", then: str = BUILDS) -> Path:
        """Put a go on the PATH that does as told instead of building."""
        return self.program("go", FAKE_GO.format(version=version, calls=self.calls, then=then))

    def peers(self, *arguments: str) -> tuple[int, str, str]:
        """Run the command in this process; status, output and errors."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = peers.main(["--into", str(self.into), *arguments])
        return status, out.getvalue(), err.getvalue()

    def called(self) -> list[str]:
        """What go was asked to do."""
        return self.calls.read_text(encoding="utf-8").splitlines() if self.calls.exists() else []

    def left(self) -> list[str]:
        """Temporary rooms that were not removed."""
        return [str(path) for path in self.into.glob("tmp-*")]

    def test_builds_then_is_there(self) -> None:
        """The first call builds the pinned Xray, the second finds it and does not call go."""
        self.fake_go()
        status, out, err = self.peers()
        self.assertEqual((status, err), (0, ""))
        self.assertIn("xray: installed: Xray 26.3.27 fake", out)
        self.assertEqual(self.called()[0], "install -v github.com/xtls/xray-core/main@v1.260327.0")
        self.assertTrue(self.called()[1].endswith(" 0 local"), self.called()[1])
        self.assertEqual(len(self.called()), 2)
        status, out, err = self.peers("xray")
        self.assertEqual((status, out, err), (0, "xray: already there: Xray 26.3.27 fake\n", ""))
        self.assertEqual(len(self.called()), 2)
        self.assertEqual(self.left(), [])

    def test_the_tree_can_be_moved(self) -> None:
        """The link stays inside by a relative path."""
        self.fake_go()
        self.peers()
        moved = self.place / "moved"
        self.into.rename(moved)
        self.into = moved
        self.assertIn("already there", self.peers()[1])

    def test_new_pin_is_built(self) -> None:
        """When the pinned version changes, the old binary no longer counts."""
        self.fake_go()
        self.peers()
        new = peers.Peer("xray", "", peers.PEERS["xray"].package, "v9.9.9", (1, 26), ("version",))
        self.patch(peers, "PEERS", {"xray": new})
        self.assertIn("xray: installed", self.peers()[1])
        self.assertIn("@v9.9.9", "\n".join(self.called()))

    def test_failed_build(self) -> None:
        """A build that fails shows go's last lines and what to do, and leaves nothing behind."""
        self.fake_go(then="echo 'dial tcp 192.0.2.1:443: i/o timeout' >&2; exit 1")
        status, out, err = self.peers()
        self.assertEqual(status, 1)
        self.assertIn("dial tcp 192.0.2.1:443: i/o timeout", err)
        self.assertIn("The network failed", err)
        self.assertIn("MMW_XRAY=/path/to/xray tools/peers xray", err)
        self.assertIn("xray: FAILED", out)
        self.assertFalse((self.into / "bin" / "xray").is_symlink())
        self.assertEqual(self.left(), [])

    def test_built_but_does_not_run(self) -> None:
        """What was built must run before it is put in place."""
        self.fake_go(then=BUILDS.replace("echo Xray 26.3.27 fake", "exit 1"))
        status, _, err = self.peers()
        self.assertEqual(status, 1)
        self.assertIn("does not run here", err)
        self.assertFalse((self.into / "bin" / "xray").is_symlink())

    def test_hung_build(self) -> None:
        """A build that takes too long is ended; meanwhile its last line is shown."""
        self.patch(peers, "PROGRESS_SECONDS", 0.05)
        self.fake_go(then="echo downloading things; sleep 60")
        status, out, err = self.peers("--timeout", "0.3")
        self.assertEqual(status, 1)
        self.assertIn("xray: 0 s: downloading things", out)
        self.assertIn("not done after 0 s", err)

    def test_one_failure_does_not_stop_the_rest(self) -> None:
        """The other peers are still installed, and the status tells of the failure."""
        self.fake_go(then="exit 1")
        nginx = self.program("nginx", "#!/bin/sh\necho nginx version: nginx/1.22.1 >&2\n")
        status, out, _ = self.peers("xray", "nginx")
        self.assertEqual(status, 1)
        self.assertEqual(
            out.splitlines()[-2:],
            ["xray: FAILED", f"nginx: installed: nginx version: nginx/1.22.1 (yours: {nginx})"],
        )

    def test_left_over_room_is_removed(self) -> None:
        """What a killed call left is removed by the next."""
        (self.into / "tmp-old").mkdir(parents=True)
        self.fake_go()
        self.peers()
        self.assertEqual(self.left(), [])

    def test_two_at_once(self) -> None:
        """While another holds the lock, a call says that it waits and then goes on."""
        self.fake_go()
        self.into.mkdir()
        with open(self.into / "lock", "w", encoding="ascii") as held:
            fcntl.flock(held, fcntl.LOCK_EX)

            def say(text: str) -> None:
                fcntl.flock(held, fcntl.LOCK_UN)
                print(text)

            self.patch(peers, "say", say)
            status, out, _ = self.peers()
        self.assertEqual(status, 0)
        self.assertIn("waiting for it", out)
        self.assertIn("xray: installed", out)

    def test_provided_binary(self) -> None:
        """A binary named in MMW_XRAY is linked, not built, and kept when it is named no more."""
        self.fake_go()
        mine = self.program("my-xray", "#!/bin/sh\necho Xray 25.1.1 mine\n")
        with self.variable("MMW_XRAY", str(mine)):
            status, out, _ = self.peers()
            self.assertEqual(
                (status, out), (0, f"xray: installed: Xray 25.1.1 mine (yours: {mine})\n")
            )
            self.assertIn("already there", self.peers()[1])
        self.assertIn("already there", self.peers()[1])
        self.assertEqual(self.called(), [])
        self.assertEqual((self.into / "bin" / "xray").resolve(), mine)

    def test_provided_binary_replaces_a_built_one(self) -> None:
        """Naming a binary later switches the link to it."""
        self.fake_go()
        self.peers()
        mine = self.program("my-xray", "#!/bin/sh\necho Xray 25.1.1 mine\n")
        with self.variable("MMW_XRAY", str(mine)):
            self.assertIn("installed: Xray 25.1.1 mine", self.peers()[1])

    def test_provided_binary_is_none(self) -> None:
        """A wrong MMW_XRAY is named, and nothing is built in its stead."""
        self.fake_go()
        with self.variable("MMW_XRAY", "/nowhere/xray"):
            status, _, err = self.peers()
        self.assertEqual(status, 1)
        self.assertIn("MMW_XRAY=/nowhere/xray is not an executable file", err)
        self.assertEqual(self.called(), [])

    def test_provided_is_our_own_link(self) -> None:
        """MMW_XRAY naming .peers/bin/xray itself does not make a link to itself."""
        self.fake_go()
        with self.variable("MMW_XRAY", str(self.into / "bin" / "xray")):
            status, out, _ = self.peers()
        self.assertEqual(status, 0)
        self.assertIn("Xray 26.3.27 fake", out)

    def test_binary_that_went_away(self) -> None:
        """A link to a binary that is gone is no binary: it is built."""
        self.fake_go()
        mine = self.program("my-xray", "#!/bin/sh\necho mine\n")
        with self.variable("MMW_XRAY", str(mine)):
            self.peers()
        mine.unlink()
        self.assertIn("installed: Xray 26.3.27 fake", self.peers()[1])

    def test_go_of_the_callers_choice(self) -> None:
        """--go with a path uses that one only, and says when it is none."""
        status, _, err = self.peers("--go", str(self.place / "no-go"))
        self.assertEqual(status, 1)
        self.assertIn("no Go there", err)

    def test_no_go_anywhere(self) -> None:
        """Without Go, pip fetches one; when that fails, the message says what to do."""
        self.fake_go("1.19.8")
        asked: list[str] = []

        def no_network(label: str, command: list[str], *rest: object) -> None:
            asked.extend(command)
            raise peers.CannotInstall("go: exit status 1")

        self.patch(peers, "run", no_network)
        status, out, err = self.peers()
        self.assertEqual(status, 1)
        self.assertIn("go is 1.19.8, 1.26 is needed: not used", out)
        self.assertEqual(asked[-1], peers.PIP_GO)
        self.assertIn("Or install Go by hand", err)

    def test_pip_go(self) -> None:
        """pip's package holds Go at go/bin/go; it is moved in place as a whole and used."""
        fake = self.place / "fake-go"
        self.fake_go().rename(fake)
        real_run = peers.run

        def false_pip(label: str, command: list[str], *rest: object) -> None:
            if "pip" not in command:
                real_run(label, command, *rest)
                return
            target = next(x for x in command if x.startswith("--target=")).partition("=")[2]
            (Path(target) / "go" / "bin").mkdir(parents=True)
            (Path(target) / "go" / "bin" / "go").symlink_to(fake)

        self.patch(peers, "run", false_pip)
        status, out, err = self.peers()
        self.assertEqual((status, err), (0, ""))
        self.assertIn(f"with {self.into}/go/go/bin/go", out)

    def test_unknown_peer(self) -> None:
        """A name that is no peer is wrong usage, and the names there are get listed."""
        err = io.StringIO()
        with contextlib.redirect_stderr(err):
            left = self.assertRaises(SystemExit, peers.main, ["xary"])
        self.assertEqual(left.code, 2)
        self.assertIn("no peer is called 'xary': there are xray, pebble", err.getvalue())

    def test_no_nginx_and_no_root(self) -> None:
        """Without nginx and without being root, the command to type is told."""
        self.patch(os, "access", lambda path, mode: False)
        self.patch(peers.shutil, "which", lambda name: "/usr/bin/" + name)
        self.patch(os, "geteuid", lambda: 1000)
        error = self.assertRaises(
            peers.CannotInstall, peers.get_from_debian, peers.PEERS["nginx"], 1.0
        )
        self.assertIn("sudo apt-get install nginx", str(error))

    def test_nginx_is_not_started(self) -> None:
        """While Debian's nginx is installed a policy forbids starts; afterwards it is gone."""
        policy = self.place / "policy-rc.d"
        with peers._no_service_starts(policy):
            self.assertEqual(subprocess.run([policy], check=False).returncode, 101)
        self.assertFalse(policy.exists())

    def test_policy_of_the_machine_is_left_alone(self) -> None:
        """A policy that is there already stays."""
        policy = self.program("policy-rc.d", "#!/bin/sh\nexit 0\n")
        with peers._no_service_starts(policy):
            self.assertIn("exit 0", policy.read_text(encoding="utf-8"))
        self.assertTrue(policy.exists())

    @contextlib.contextmanager
    def variable(self, name: str, value: str) -> Iterator[None]:
        """Set an environment variable for a while."""
        os.environ[name] = value
        try:
            yield
        finally:
            del os.environ[name]


class PeersPartsTests(SynchronousTestCase):
    """The pure parts of `tools/peers`."""

    def test_go_version(self) -> None:
        """The numbers are read from what `go version` says, missing ones as 0."""
        said = {
            "go version go1.26.8 linux/amd64": (1, 26, 8),
            "go version go1.19 linux/arm64": (1, 19, 0),
            "go version go1.27rc1 linux/amd64": (1, 27, 0),
            "go version devel +abc linux/amd64": None,
            "": None,
            None: None,
        }
        self.assertEqual({text: peers.go_version(text) for text in said}, said)

    def test_new_enough(self) -> None:
        """1.9 is older than 1.26, 1.26.0 is new enough for 1.26."""
        self.assertLess(peers.go_version("go version go1.9.7 x"), (1, 26))
        self.assertGreaterEqual(peers.go_version("go version go1.26.0 x"), (1, 26))

    def test_pebble_brings_its_companion(self) -> None:
        """Asking for pebble means its DNS server too; asking twice means once; nothing, xray."""
        for asked in (["pebble"], ["pebble", "pebble-challtestsrv", "pebble"]):
            names = [peer.name for peer in peers.chosen(asked)]
            self.assertEqual(names, ["pebble", "pebble-challtestsrv"])
        self.assertEqual([peer.name for peer in peers.chosen([])], ["xray"])

    def test_variable_names(self) -> None:
        """Each peer has a variable a shell can set."""
        self.assertEqual(
            [peer.variable for peer in peers.PEERS.values()],
            [
                "MMW_XRAY",
                "MMW_PEBBLE",
                "MMW_PEBBLE_CHALLTESTSRV",
                "MMW_NGINX",
                "MMW_FAKETIME",
            ],
        )

    def test_every_go_peer_is_pinned(self) -> None:
        """No peer that Go builds floats: each has an exact version and a Go it needs."""
        for peer in peers.PEERS.values():
            if peer.package is not None:
                self.assertRegex(peer.module_version, r"^v\d+\.\d+\.\d+$")
                self.assertTrue(peer.go_needed)

    def test_environment_of_go(self) -> None:
        """Cross-compiling and vendoring of the caller are not ours; the rest is."""
        outside = {"GOOS": "plan9", "GOFLAGS": "-mod=vendor -x", "GOPROXY": "p", "HOME": "/h"}
        env = peers.go_environment(Path("/g/bin/go"), outside, Path("/p"), Path("/b"))
        self.assertNotIn("GOOS", env)
        self.assertNotIn("GOROOT", env)
        self.assertNotIn("GOCACHE", env)
        self.assertEqual((env["GOFLAGS"], env["GOPROXY"], env["GOBIN"]), ("-x", "p", "/b"))

    def test_environment_without_home(self) -> None:
        """Without HOME, Go's caches are kept with the peers, where they can be deleted."""
        env = peers.go_environment(Path("/p/go/go/bin/go"), {}, Path("/p"), Path("/b"))
        self.assertEqual((env["GOCACHE"], env["GOFLAGS"]), ("/p/cache/build", "-modcacherw"))
        self.assertEqual(env["GOROOT"], "/p/go/go")

    def test_advice(self) -> None:
        """Known troubles come with what to do; an unknown one with its lines only."""
        said = {
            "write: no space left on device": "The disk is full",
            "requires go >= 1.26 (running go 1.24)": "This Go is too old",
            "dial tcp: lookup x: no such host": "The network failed",
            "ERROR: No matching distribution found for x": "pip found no Go",
        }
        for line, advice in said.items():
            self.assertIn(advice, peers._explain("xray", "exit status 1", [line]))
        self.assertEqual(
            peers._explain("xray", "exit status 1", ["odd"]),
            "xray: exit status 1. The last lines:\n  odd",
        )
