"""Tests of the processes read from /proc, on an imitation of it in a directory."""

from __future__ import annotations

import os
import shutil
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from mmwagent.host.processes import BootTimeUnknown, Process, Processes

TICKS = os.sysconf("SC_CLK_TCK")
BOOT = datetime(2026, 5, 1, 12, 0, 0, tzinfo=UTC)


class ImitationOfProc:
    """A directory laid out as /proc."""

    def __init__(self, path: str) -> None:
        self.root = Path(path)
        self.root.mkdir()
        self.boot(BOOT)
        self._namespace("self", "pid:[4026531836]")

    def boot(self, when: datetime) -> None:
        """Say that the machine started at `when`."""
        text = f"cpu  1 2 3 4\nintr 9 9\nctxt 5\nbtime {int(when.timestamp())}\nprocesses 7\n"
        (self.root / "stat").write_text(text)

    def add(
        self,
        pid: int,
        executable: str = "/usr/local/bin/xray",
        cmdline: bytes = b"xray\0run\0",
        comm: str = "xray",
        state: str = "S",
        start: int = 50 * TICKS,
        namespace: str | None = "pid:[4026531836]",
        directory: str = "/srv",
    ) -> Path:
        """Add a process and return its directory."""
        where = self.root / str(pid)
        where.mkdir()
        (where / "exe").symlink_to(executable)
        (where / "cwd").symlink_to(directory)
        (where / "cmdline").write_bytes(cmdline)
        fields = " ".join(["0"] * 18)
        (where / "stat").write_text(f"{pid} ({comm}) {state} {fields} {start} 1000 5\n")
        if namespace is not None:
            self._namespace(str(pid), namespace)
        return where

    def _namespace(self, process: str, identity: str) -> None:
        directory = self.root / process / "ns"
        directory.mkdir(parents=True)
        (directory / "pid").symlink_to(identity)


class ProcessesCase(SynchronousTestCase):
    """A /proc of one's own and what the agent reads from it."""

    def setUp(self) -> None:
        """Make an empty imitation."""
        self.proc = ImitationOfProc(self.mktemp())
        self.processes = Processes(str(self.proc.root))

    def pids(self, name: str = "xray") -> list[int]:
        """Return the pids found under `name`."""
        return [process.pid for process in self.processes.named(name)]


class NamedTests(ProcessesCase):
    """Processes are found by the file they execute."""

    def test_everything_is_told(self) -> None:
        """A process comes with its path, arguments, directory and start in UTC."""
        self.proc.add(41, cmdline=b"xray\0run\0-c\0/etc/x y.json\0", start=50 * TICKS + TICKS // 2)
        self.assertEqual(
            self.processes.named("xray"),
            [
                Process(
                    pid=41,
                    executable="/usr/local/bin/xray",
                    arguments=("xray", "run", "-c", "/etc/x y.json"),
                    directory="/srv",
                    started=BOOT + timedelta(seconds=50.5),
                )
            ],
        )

    def test_a_name_in_the_arguments_is_not_enough(self) -> None:
        """An editor or a grep with `xray` in its command line or title is not Xray."""
        self.proc.add(41, "/usr/bin/vim", cmdline=b"vim\0xray\0", comm="xray")
        self.proc.add(42, "/opt/xray/other")
        self.proc.add(43, "/usr/bin/xray-old")
        self.assertEqual(self.pids(), [])

    def test_several_come_by_rising_pid(self) -> None:
        """All processes of a name are given, in the order of their numbers."""
        for pid in (100, 9, 20):
            self.proc.add(pid)
        self.assertEqual(self.pids(), [9, 20, 100])

    def test_a_replaced_file_still_counts(self) -> None:
        """After an upgrade the kernel marks the link as deleted; path and name stay."""
        self.proc.add(41, "/usr/local/bin/xray (deleted)", directory="/tmp/x (deleted)")
        (process,) = self.processes.named("xray")
        self.assertEqual(process.executable, "/usr/local/bin/xray")
        self.assertEqual(process.directory, "/tmp/x")

    def test_a_difficult_command_name(self) -> None:
        """A command name with spaces and parentheses does not shift the fields."""
        self.proc.add(41, comm=") Z 1 2 (x y) R ((", start=7 * TICKS)
        (process,) = self.processes.named("xray")
        self.assertEqual(process.started, BOOT + timedelta(seconds=7))

    def test_dead_ones_are_left_out(self) -> None:
        """Zombies and dead processes do not run."""
        for pid, state in ((41, "Z"), (42, "X"), (43, "x"), (44, "D"), (45, "T")):
            self.proc.add(pid, state=state)
        self.assertEqual(self.pids(), [44, 45])

    def test_containers_are_left_out(self) -> None:
        """A process of another PID namespace belongs to a container, not to this machine."""
        self.proc.add(41, namespace="pid:[4026532999]")
        self.proc.add(42)
        self.assertEqual(self.pids(), [42])

    def test_an_unknown_namespace_is_taken_as_ours(self) -> None:
        """A namespace that cannot be read, theirs or the agent's, hides no process."""
        self.proc.add(41, namespace=None)
        self.assertEqual(self.pids(), [41])
        self.proc.add(42, namespace="pid:[1]")
        shutil.rmtree(self.proc.root / "self")
        self.assertEqual(self.pids(), [41, 42])

    def test_a_process_that_vanishes_is_left_out(self) -> None:
        """Whichever file is gone when it is read, the others are still found."""
        for pid, gone in ((41, "exe"), (42, "stat"), (43, "cmdline"), (44, "cwd")):
            (self.proc.add(pid) / gone).unlink()
        self.proc.add(45)
        self.assertEqual(self.pids(), [45])

    def test_a_stat_that_makes_no_sense_is_left_out(self) -> None:
        """Empty, short or strange contents of `stat` raise nothing."""
        for pid, text in ((41, ""), (42, "42 (xray) S 1"), (43, "43 (x) S" + " q" * 30)):
            (self.proc.add(pid) / "stat").write_text(text)
        self.proc.add(44)
        self.assertEqual(self.pids(), [44])

    def test_other_entries_are_no_processes(self) -> None:
        """Entries of /proc that are not numbers are passed over."""
        (self.proc.root / "4x").mkdir()
        (self.proc.root / "irq").mkdir()
        self.assertEqual(self.pids(), [])

    def test_a_title_written_over_the_arguments(self) -> None:
        """The zero bytes nginx fills up with are no arguments; no arguments are none."""
        self.proc.add(41, cmdline=b"nginx: master process nginx -c /e\0\0\0\0")
        self.proc.add(42, cmdline=b"")
        first, second = self.processes.named("xray")
        self.assertEqual(first.arguments, ("nginx: master process nginx -c /e",))
        self.assertEqual(second.arguments, ())

    def test_arguments_in_no_encoding(self) -> None:
        """Bytes that are no UTF-8 survive as the file system's escapes."""
        self.proc.add(41, cmdline=b"xray\0\xff\0")
        (process,) = self.processes.named("xray")
        self.assertEqual(os.fsencode(process.arguments[1]), b"\xff")

    def test_the_real_one(self) -> None:
        """In the real /proc this very process is found, started in the past."""
        name = os.path.basename(os.path.realpath(sys.executable))
        found = {process.pid: process for process in Processes().named(name)}
        self.assertEqual(found[os.getpid()].directory, os.getcwd())
        self.assertGreater(found[os.getpid()].started, Processes().boot_time())


class StartTests(ProcessesCase):
    """Start times do not move while the process lives."""

    def test_a_moving_boot_time_moves_no_start(self) -> None:
        """A process keeps the start it was first given, also when asked under another name."""
        self.proc.add(41)
        (before,) = self.processes.named("xray")
        self.proc.boot(BOOT + timedelta(seconds=1))
        self.processes.named("nginx")
        (after,) = self.processes.named("xray")
        self.assertEqual(after, before)

    def test_a_new_process_under_an_old_pid(self) -> None:
        """A pid given to another process has another start."""
        directory = self.proc.add(41, start=50 * TICKS)
        self.processes.named("xray")
        shutil.rmtree(directory)
        self.proc.add(41, start=60 * TICKS)
        (process,) = self.processes.named("xray")
        self.assertEqual(process.started, BOOT + timedelta(seconds=60))

    def test_ended_processes_are_forgotten(self) -> None:
        """The memory of starts holds living processes only."""
        directory = self.proc.add(41)
        self.processes.named("xray")
        shutil.rmtree(directory)
        self.processes.named("xray")
        self.proc.boot(BOOT + timedelta(seconds=9))
        self.proc.add(41)
        (process,) = self.processes.named("xray")
        self.assertEqual(process.started, BOOT + timedelta(seconds=59))


class BootTimeTests(ProcessesCase):
    """The boot time is one value for the agent's life."""

    def test_it_is_read_once(self) -> None:
        """A kernel that changes its mind by a second is not believed."""
        self.assertEqual(self.processes.boot_time(), BOOT)
        self.proc.boot(BOOT + timedelta(seconds=1))
        self.assertEqual(self.processes.boot_time(), BOOT)
        self.assertIs(self.processes.boot_time().tzinfo, UTC)

    def test_a_missing_line(self) -> None:
        """Without the btime line the error names what is missing, and the next call tries anew."""
        (self.proc.root / "stat").write_text("cpu 1 2\nbtime never\n")
        error = self.assertRaises(BootTimeUnknown, self.processes.boot_time)
        self.assertEqual(str(error), f"no btime line in {self.proc.root}/stat")
        self.proc.boot(BOOT)
        self.assertEqual(self.processes.boot_time(), BOOT)

    def test_a_missing_file(self) -> None:
        """Without the file the error says so, for a process that is found as well."""
        self.proc.add(41)
        (self.proc.root / "stat").unlink()
        message = f"cannot read {self.proc.root}/stat: No such file or directory"
        for ask in (self.processes.boot_time, self.pids):
            self.assertEqual(str(self.assertRaises(BootTimeUnknown, ask)), message)
