"""Tests of running commands: deadlines on an imitation, the rest with a real shell."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ProcessDone, ProcessExitedAlready, ProcessTerminated
from twisted.internet.interfaces import IProcessProtocol, IProcessTransport
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase

from mmwagent.host.command import (
    LINE_LIMIT,
    CommandNotFound,
    CommandNotStarted,
    CommandReactor,
    Finished,
    find_executable,
    run,
)


class ImitationOfChild:
    """The transport of a child that does what the test says."""

    def __init__(self, protocol: ProcessProtocol) -> None:
        self.protocol = protocol
        self.done: list[object] = []
        self.signal_error: Exception | None = None

    def writeToChild(self, fd: int, data: bytes) -> None:
        """Note what goes to the child."""
        self.done.append((fd, data))

    def closeStdin(self) -> None:
        """Note that the input ends."""
        self.done.append("closed input")

    def loseConnection(self) -> None:
        """Note that the pipes are closed."""
        self.done.append("closed pipes")

    def signalProcess(self, name: str) -> None:
        """Note the signal, or fail as the test wants."""
        if self.signal_error is not None:
            raise self.signal_error
        self.done.append(name)

    def write(self, fd: int, data: bytes) -> None:
        """Write as the child."""
        self.protocol.childDataReceived(fd, data)

    def exit(self, status: int | None = 0, by: int | None = None) -> Failure:
        """Exit with a status or by a signal, the pipes still open."""
        value = ProcessDone(0) if status == 0 else ProcessTerminated(status, by)
        reason = Failure(value)
        self.protocol.processExited(reason)
        return reason

    def end(self, status: int | None = 0, by: int | None = None) -> None:
        """Exit, and all pipes end."""
        self.protocol.processEnded(self.exit(status, by))


class ImitationOfReactor(Clock):
    """A clock that starts imitations of children."""

    def __init__(self) -> None:
        super().__init__()
        self.started: list[tuple[object, ...]] = []
        self.error: Exception | None = None

    def spawnProcess(
        self,
        protocol: IProcessProtocol,
        executable: bytes | str,
        args: Sequence[bytes | str] = (),
        env: Mapping[str, str] | None = None,
    ) -> IProcessTransport:
        """Start an imitation; nothing may be given that makes Twisted fork."""
        if self.error is not None:
            raise self.error
        self.started.append((executable, args, env))
        self.child = ImitationOfChild(cast(ProcessProtocol, protocol))
        transport = cast(IProcessTransport, self.child)
        protocol.makeConnection(transport)
        return transport


class ImitationCase(SynchronousTestCase):
    """Commands on the imitation."""

    def setUp(self) -> None:
        """Make a reactor."""
        self.reactor = ImitationOfReactor()
        self.lines: list[bytes] = []

    def run_shell(
        self, timeout: float = 10.0, stdin: bytes = b"", limit: int = 100
    ) -> Deferred[Finished]:
        """Start the shell, its lines going to `lines`."""
        return run(
            self.reactor,
            ["/bin/sh", "-c", "x"],
            timeout=timeout,
            stdin=stdin,
            limit=limit,
            on_line=self.lines.append,
        )

    def assert_idle(self) -> None:
        """Assert that nothing is left to happen."""
        self.assertEqual(self.reactor.getDelayedCalls(), [])


class EndTests(ImitationCase):
    """A command that ends by itself."""

    def test_the_result(self) -> None:
        """Status and both outputs are told when the pipes have ended, and no timer stays."""
        finished = self.run_shell()
        child = self.reactor.child
        child.write(1, b"one\n")
        child.write(2, b"two\n")
        child.write(1, b"three")
        self.assertNoResult(finished)
        child.end(3)
        expected = Finished(
            status=3, signal=None, output=b"one\nthree", errors=b"two\n", timed_out=False
        )
        self.assertEqual(self.successResultOf(finished), expected)
        self.assert_idle()

    def test_how_it_is_started(self) -> None:
        """Path, arguments and environment go on unchanged, and the input is closed."""
        run(self.reactor, ["/bin/sh", "-c", "x y"], timeout=5, env={"A": "b"})
        run(self.reactor, ["/bin/sh"], timeout=5)
        self.assertEqual(
            self.reactor.started,
            [("/bin/sh", ["/bin/sh", "-c", "x y"], {"A": "b"}), ("/bin/sh", ["/bin/sh"], None)],
        )
        self.assertEqual(self.reactor.child.done, ["closed input"])

    def test_input(self) -> None:
        """The input is written before it is closed."""
        self.run_shell(stdin=b"data")
        self.assertEqual(self.reactor.child.done, [(0, b"data"), "closed input"])

    def test_a_signal(self) -> None:
        """A child that a signal ends has a signal and no status."""
        finished = self.run_shell()
        self.reactor.child.end(None, by=signal.SIGSEGV)
        result = self.successResultOf(finished)
        self.assertEqual((result.status, result.signal), (None, signal.SIGSEGV))

    def test_success(self) -> None:
        """Only status 0 in time is a success."""
        for status, timed_out, succeeded in (
            (0, False, True),
            (1, False, False),
            (0, True, False),
        ):
            result = Finished(status, None, b"", b"", timed_out)
            self.assertEqual(result.succeeded, succeeded)
        self.assertFalse(Finished(None, 15, b"", b"", False).succeeded)

    def test_output_over_the_limit(self) -> None:
        """Of each output the first bytes are kept, and reading goes on."""
        finished = self.run_shell(limit=5)
        child = self.reactor.child
        for data in (b"abc", b"def", b"ghi"):
            child.write(1, data)
        child.write(2, b"12345")
        child.write(2, b"6")
        child.end()
        result = self.successResultOf(finished)
        self.assertEqual((result.output, result.errors), (b"abcde", b"12345"))
        self.assertEqual(self.lines, [b"abcdefghi", b"123456"])


class DeadlineTests(ImitationCase):
    """A command that takes too long."""

    def test_terminated(self) -> None:
        """At the deadline the child is asked to end, and the result says so."""
        finished = self.run_shell(timeout=10)
        child = self.reactor.child
        self.reactor.advance(9.9)
        self.assertNotIn("TERM", child.done)
        self.reactor.advance(0.1)
        self.assertEqual(child.done, ["closed input", "TERM"])
        child.write(1, b"bye")
        child.end(None, by=signal.SIGTERM)
        result = self.successResultOf(finished)
        self.assertEqual(
            result, Finished(None, signal.SIGTERM, output=b"bye", errors=b"", timed_out=True)
        )
        self.assert_idle()

    def test_one_that_ends_well_after_the_deadline(self) -> None:
        """A child that exits with 0 when asked to end has timed out all the same."""
        finished = self.run_shell(timeout=10)
        self.reactor.advance(10)
        self.reactor.child.end(0)
        self.assertTrue(self.successResultOf(finished).timed_out)

    def test_killed(self) -> None:
        """One that does not listen is killed 2 s later."""
        finished = self.run_shell(timeout=10)
        child = self.reactor.child
        self.reactor.advance(10)
        self.reactor.advance(1.9)
        self.assertNotIn("KILL", child.done)
        self.reactor.advance(0.1)
        self.assertEqual(child.done, ["closed input", "TERM", "KILL"])
        self.assertNoResult(finished)
        child.end(None, by=signal.SIGKILL)
        self.assertEqual(self.successResultOf(finished).signal, signal.SIGKILL)
        self.assert_idle()

    def test_one_that_cannot_be_killed(self) -> None:
        """One that hangs in the kernel is given up, with what it has written."""
        finished = self.run_shell(timeout=10)
        child = self.reactor.child
        child.write(1, b"half")
        self.reactor.pump([10, 2, 1.9])
        self.assertNoResult(finished)
        self.reactor.advance(0.1)
        expected = Finished(None, signal.SIGKILL, output=b"half", errors=b"", timed_out=True)
        self.assertEqual(self.successResultOf(finished), expected)
        self.assertEqual(child.done[-1], "closed pipes")
        child.write(1, b"late\n")
        child.end(None, by=signal.SIGKILL)
        self.assert_idle()
        self.assertEqual(self.lines, [b"half"])

    def test_one_that_cannot_be_signalled(self) -> None:
        """One that just exited, or that belongs to somebody else, does not stop the rest."""
        for error in (ProcessExitedAlready(), PermissionError(1, "Operation not permitted")):
            finished = self.run_shell(timeout=1)
            self.reactor.child.signal_error = error
            self.reactor.pump([1, 2, 2])
            self.assertTrue(self.successResultOf(finished).timed_out)

    def test_in_time(self) -> None:
        """The deadline is the child's: an exit in time is no timeout, whatever the pipes do."""
        finished = self.run_shell(timeout=1)
        self.reactor.advance(0.9)
        child = self.reactor.child
        child.exit(0)
        self.reactor.pump([0.2, 0.2])
        self.assertFalse(self.successResultOf(finished).timed_out)
        self.assertNotIn("TERM", child.done)


class GrandchildTests(ImitationCase):
    """A grandchild that keeps the pipes open after the child's exit."""

    def test_a_silent_one(self) -> None:
        """The rest of the output is awaited for a moment, then the pipes are closed."""
        finished = self.run_shell()
        child = self.reactor.child
        child.exit(0)
        self.reactor.advance(0.2)
        child.write(1, b"rest")
        self.reactor.pump([0.2])
        self.assertNoResult(finished)
        self.reactor.advance(0.2)
        self.assertEqual(self.successResultOf(finished).output, b"rest")
        self.assertEqual(child.done[-1], "closed pipes")
        self.assert_idle()

    def test_one_tick_is_not_silence(self) -> None:
        """A loop that was blocked over the first tick still reads before the pipes close."""
        finished = self.run_shell()
        self.reactor.child.exit(0)
        self.reactor.advance(60)
        self.assertNoResult(finished)
        self.reactor.child.write(1, b"rest")
        self.reactor.pump([0.2, 0.2])
        self.assertEqual(self.successResultOf(finished).output, b"rest")

    def test_a_talkative_one(self) -> None:
        """One that writes on and on is left after 2 s."""
        finished = self.run_shell()
        child = self.reactor.child
        child.exit(0)
        for _ in range(9):
            self.reactor.advance(0.2)
            child.write(1, b"x")
        self.assertNoResult(finished)
        self.reactor.advance(0.2)
        self.assertEqual(self.successResultOf(finished).output, b"x" * 9)

    def test_the_pipes_end_meanwhile(self) -> None:
        """When the pipes end the result comes at once."""
        finished = self.run_shell()
        child = self.reactor.child
        reason = child.exit(1)
        self.reactor.advance(0.2)
        child.protocol.processEnded(reason)
        self.assertEqual(self.successResultOf(finished).status, 1)
        self.assert_idle()


class CancelTests(ImitationCase):
    """A caller that no longer wants the result."""

    def test_the_child_is_ended(self) -> None:
        """The caller is let go at once, the child gets both signals, and nothing stays."""
        finished = self.run_shell()
        child = self.reactor.child
        finished.cancel()
        self.failureResultOf(finished, CancelledError)
        self.reactor.advance(2)
        self.assertEqual(child.done, ["closed input", "TERM", "KILL"])
        child.write(1, b"not heard\n")
        child.end(None, by=signal.SIGKILL)
        self.assertEqual(self.lines, [])
        self.assert_idle()

    def test_after_the_deadline(self) -> None:
        """A cancellation does not lengthen the child's last moments."""
        finished = self.run_shell(timeout=1)
        child = self.reactor.child
        self.reactor.pump([1, 1.5])
        finished.cancel()
        self.failureResultOf(finished, CancelledError)
        self.reactor.advance(0.5)
        self.assertEqual(child.done, ["closed input", "TERM", "KILL"])

    def test_after_the_exit(self) -> None:
        """An exited child is not signalled; its pipes are still closed."""
        finished = self.run_shell()
        child = self.reactor.child
        child.exit(0)
        finished.cancel()
        self.failureResultOf(finished, CancelledError)
        self.reactor.pump([0.2, 0.2])
        self.assertEqual(child.done, ["closed input", "closed pipes"])
        self.assert_idle()


class NotStartedTests(ImitationCase):
    """Commands that cannot be started."""

    def fails(self, argv: Sequence[str], error: type[Exception]) -> str:
        """Return the text of the error."""
        finished = run(self.reactor, argv, timeout=1)
        text = str(self.failureResultOf(finished, error).value)
        self.assert_idle()
        return text

    def test_a_missing_binary(self) -> None:
        """The error names what was looked for, by name and by path."""
        for name in ("no-such-tool", "/no/such/tool", "a\0b"):
            text = self.fails([name, "x"], CommandNotFound)
            self.assertEqual(text, f"no executable file {name!r} on this machine")
        self.assertEqual(self.reactor.started, [])

    def test_no_name(self) -> None:
        """An empty command or name is refused."""
        self.assertIn("without a name", self.fails([], CommandNotStarted))
        self.assertIn("''", self.fails([""], CommandNotFound))

    def test_a_system_that_refuses(self) -> None:
        """The system's reason is passed on."""
        for error in (OSError(11, "Resource temporarily unavailable"), TypeError("odd")):
            self.reactor.error = error
            text = self.fails(["/bin/sh"], CommandNotStarted)
            self.assertEqual(text, f"cannot start /bin/sh: {error}")

    def test_the_path_of_the_environment(self) -> None:
        """A PATH given to the child is where its binary is looked for first."""
        directory = Path(self.mktemp()).absolute()
        directory.mkdir()
        (directory / "sh").write_text("")
        (directory / "sh").chmod(0o755)
        run(self.reactor, ["sh"], timeout=1, env={"PATH": str(directory)})
        self.assertEqual(self.reactor.started[0][0], str(directory / "sh"))


class LineTests(ImitationCase):
    """Lines are given as they come."""

    def lines_of(self, *chunks: bytes, end: bool = True) -> list[bytes]:
        """Return the lines given for these chunks of output."""
        self.lines.clear()
        self.run_shell()
        for chunk in chunks:
            self.reactor.child.write(1, chunk)
        if end:
            self.reactor.child.end()
        return self.lines

    def test_at_once(self) -> None:
        """A line is given when its end has come, not before."""
        self.assertEqual(self.lines_of(b"on", b"e\ntwo\nthr", end=False), [b"one", b"two"])

    def test_the_last_one_without_an_end(self) -> None:
        """What remains at the end is a line; an end with nothing after it is not another."""
        self.assertEqual(self.lines_of(b"one\ntwo"), [b"one", b"two"])
        self.assertEqual(self.lines_of(b"one\n\n"), [b"one", b""])
        self.assertEqual(self.lines_of(), [])

    def test_ends_of_two_characters(self) -> None:
        """The carriage return before an end is a part of it."""
        self.assertEqual(self.lines_of(b"one\r\nt\rwo\r", b"\n"), [b"one", b"t\rwo"])

    def test_outputs_do_not_mix(self) -> None:
        """A line of one output is not cut by one of the other."""
        self.run_shell()
        self.reactor.child.write(1, b"half")
        self.reactor.child.write(2, b"error\nlast")
        self.reactor.child.write(1, b" done\n")
        self.reactor.child.end()
        self.assertEqual(self.lines, [b"error", b"half done", b"last"])

    def test_a_long_line(self) -> None:
        """A line over the limit comes in pieces, and none of them is empty."""
        for extra, sizes in (
            (0, [LINE_LIMIT]),
            (1, [LINE_LIMIT, 1]),
            (LINE_LIMIT, [LINE_LIMIT, LINE_LIMIT]),
            (LINE_LIMIT + 5, [LINE_LIMIT, LINE_LIMIT, 5]),
        ):
            text = b"x" * (LINE_LIMIT + extra)
            for chunks in ((text,), (text, b"\n"), (text + b"\n",), (text[:9], text[9:])):
                self.assertEqual([len(line) for line in self.lines_of(*chunks)], sizes)

    def test_pieces_come_early(self) -> None:
        """Pieces of a line without end are given while it grows."""
        self.assertEqual(len(self.lines_of(b"x" * LINE_LIMIT, b"x", end=False)), 1)

    @given(st.lists(st.binary(max_size=12), max_size=8))
    def test_any_cut(self, chunks: list[bytes]) -> None:
        """However the output is cut into chunks, the same lines are given."""
        whole = b"".join(chunks).split(b"\n")
        last = whole.pop()
        expected = [line.removesuffix(b"\r") for line in whole] + [last] * bool(last)
        self.assertEqual(self.lines_of(*chunks), expected)

    def test_a_reader_that_fails(self) -> None:
        """A reader that raises is logged once and left; the command goes on."""

        def fail(line: bytes) -> None:
            self.lines.append(line)
            raise RuntimeError("no more")

        finished = run(self.reactor, ["/bin/sh"], timeout=5, on_line=fail)
        self.reactor.child.write(1, b"one\ntwo\nthree")
        self.reactor.child.end()
        self.assertEqual(self.successResultOf(finished).output, b"one\ntwo\nthree")
        self.assertEqual(self.lines, [b"one"])
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_nobody_reads(self) -> None:
        """Without a reader the output is kept all the same."""
        finished = run(self.reactor, ["/bin/sh"], timeout=5)
        self.reactor.child.write(1, b"one\n")
        self.reactor.child.end()
        self.assertEqual(self.successResultOf(finished).output, b"one\n")


class FindExecutableTests(SynchronousTestCase):
    """Where binaries are looked for."""

    def setUp(self) -> None:
        """Make two directories with a tool each."""
        self.root = Path(self.mktemp()).absolute()
        for name in ("first", "second"):
            (self.root / name).mkdir(parents=True)
            self.tool(name)

    def tool(self, directory: str, name: str = "tool", mode: int = 0o755) -> str:
        """Make an executable and return its path."""
        path = self.root / directory / name
        path.write_text("")
        path.chmod(mode)
        return str(path)

    def test_the_order(self) -> None:
        """PATH comes first, then the extra directories, then the system's."""
        first, second = str(self.root / "first"), str(self.root / "second")
        find = find_executable
        self.assertEqual(find("tool", [first], f"/nowhere:{second}"), f"{second}/tool")
        self.assertEqual(find("tool", ["/nowhere", first], ""), f"{first}/tool")
        self.assertEqual(find("sh", [self.tool("first", "sh")[:-3]], ""), f"{first}/sh")
        self.assertIsNone(find("tool", [], ""))

    def test_the_own_path(self) -> None:
        """By default PATH is that of the agent."""
        self.patch(os, "environ", {"PATH": str(self.root / "second")})
        self.assertEqual(find_executable("tool"), str(self.root / "second/tool"))
        self.patch(os, "environ", {})
        self.assertIn(find_executable("sh"), ("/usr/bin/sh", "/bin/sh"))

    def test_the_administrators_tools(self) -> None:
        """Directories that a service's PATH lacks are looked into as well."""
        looked: list[str] = []

        def is_file(path: str) -> bool:
            looked.append(os.path.dirname(path))
            return False

        self.patch(os.path, "isfile", is_file)
        self.assertIsNone(find_executable("x", (), "/usr/bin"))
        self.assertEqual(looked[0], "/usr/bin")
        for directory in ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/sbin", "/bin"):
            self.assertIn(directory, looked)

    def test_only_executable_files(self) -> None:
        """A directory or a file without the right to execute is no binary."""
        (self.root / "first/sub").mkdir()
        path = str(self.root / "first")
        self.assertIsNone(find_executable("sub", (), path))
        plain = self.tool("first", "plain", 0o644)
        self.assertIsNone(find_executable("plain", (), path))
        self.assertIsNone(find_executable(plain))

    def test_relative_entries_are_passed_over(self) -> None:
        """An empty or relative entry of PATH does not mean the current directory."""
        (self.root / "here").mkdir()
        relative = os.path.relpath(self.root / "first")
        self.assertIsNone(find_executable("tool", (), f":{relative}:."))

    def test_a_path(self) -> None:
        """A name with a slash is that file, made absolute."""
        relative = os.path.relpath(self.root / "first/tool")
        self.assertEqual(find_executable(relative), str(self.root / "first/tool"))
        self.assertIsNone(find_executable("/bin/no-such"))


def waited_for(
    test: Callable[[RealTests], Coroutine[Deferred[Any], Any, None]],
) -> Callable[[RealTests], Deferred[None]]:
    """Make a test of a coroutine: the trial of Twisted 22.4 passes it unrun."""

    @wraps(test)
    def wrapper(case: RealTests) -> Deferred[None]:
        return Deferred.fromCoroutine(test(case))

    return wrapper


class RealTests(TestCase):
    """With real children of a real reactor."""

    def shell(
        self,
        script: str,
        timeout: float = 20.0,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
        on_line: Callable[[bytes], None] | None = None,
    ) -> Deferred[Finished]:
        """Run a script in the shell."""
        from twisted.internet import reactor  # noqa: TID251

        return run(
            cast(CommandReactor, reactor),
            ["sh", "-c", script],
            timeout=timeout,
            stdin=stdin,
            env=env,
            on_line=on_line,
        )

    @waited_for
    async def test_status_and_outputs(self) -> None:
        """Status, both outputs and the environment are those of the child."""
        result = await self.shell("echo $A; echo no >&2; exit 7", env={"A": "b"})
        self.assertEqual(result, Finished(7, None, b"b\n", b"no\n", timed_out=False))

    @waited_for
    async def test_input(self) -> None:
        """Much input gets through, and its end is seen."""
        result = await self.shell("wc -c", stdin=b"x" * 1_000_000)
        self.assertEqual(result.output.strip(), b"1000000")

    @waited_for
    async def test_input_nobody_reads(self) -> None:
        """A child that exits without reading its input is no error."""
        result = await self.shell("exit 0", stdin=b"x" * 1_000_000)
        self.assertTrue(result.succeeded)

    @waited_for
    async def test_much_output(self) -> None:
        """Output over the limit is read to the end, and all lines are given, the last too."""
        lines: list[bytes] = []
        script = "head -c 3000000 /dev/zero | tr '\\0' x; echo; seq 20000; printf last"
        result = await self.shell(script, on_line=lines.append)
        self.assertEqual(result.output, b"x" * 1024 * 1024)
        self.assertEqual(sum(map(len, lines[:-20001])), 3_000_000)
        self.assertEqual(lines[-2:], [b"20000", b"last"])

    @waited_for
    async def test_the_deadline(self) -> None:
        """A child that takes too long is ended by the signal."""
        result = await self.shell("echo started; exec sleep 100", timeout=0.1)
        self.assertEqual((result.signal, result.timed_out), (signal.SIGTERM, True))

    @waited_for
    async def test_a_grandchild_that_stays(self) -> None:
        """A daemon that keeps the pipes open does not keep the caller."""
        result = await self.shell("sleep 100 & echo $!")
        self.addCleanup(os.kill, int(result.output), signal.SIGKILL)
        self.assertTrue(result.succeeded)
        self.assertFalse(result.timed_out)

    @waited_for
    async def test_cancelled(self) -> None:
        """Cancelling ends the real child."""
        pid: Deferred[bytes] = Deferred()
        finished = self.shell("echo $$; exec sleep 100", on_line=pid.callback)
        number = int(await pid)
        finished.cancel()
        await self.assertFailure(finished, CancelledError)
        await self.shell(f"while kill -0 {number} 2>/dev/null; do sleep 0.01; done")
        self.assertRaises(ProcessLookupError, os.kill, number, 0)
