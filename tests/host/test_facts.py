"""Tests of the facts about a machine, on imitations of /proc and /etc."""

from __future__ import annotations

import errno
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from threading import Thread
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mmwagent.host.facts import Facts

BOOT = datetime(2026, 5, 1, 12, 0, 7, tzinfo=UTC)
MEMINFO = """\
MemTotal:        2000000 kB
MemFree:          300000 kB
MemAvailable:    1500000 kB
Buffers:           20000 kB
Cached:           400000 kB
SwapCached:            0 kB
SwapTotal:       1000000 kB
SwapFree:         750000 kB
HugePages_Total:       0
"""
CPUINFO = """\
processor\t: 0
model\t\t: 167
model name\t: Some Processor: 3 GHz
flags\t\t:

processor\t: 1
model name\t: Another
"""
UNAME = os.uname_result(("Linux", "node7", "6.1.0-42-amd64", "#1 SMP", "x86_64"))
MIB = 1024 * 1024


def sizes(blocks: int = 100, free: int = 40, available: int = 30) -> os.statvfs_result:
    """Return the sizes of a filesystem with blocks of 1 MiB, asked in pieces of 4 KiB."""
    return os.statvfs_result((4096, MIB, blocks, free, available, 0, 0, 0, 0, 255))


class FactsCase(SynchronousTestCase):
    """A machine in a directory."""

    def setUp(self) -> None:
        """Write the files of an ordinary machine."""
        self.root = Path(self.mktemp())
        for name in ("proc", "etc", "lib"):
            (self.root / name).mkdir(parents=True)
        self.proc("meminfo", MEMINFO)
        self.proc("cpuinfo", CPUINFO)
        self.proc("loadavg", "0.30 1.54 12.00 1/88 19920\n")
        self.proc("uptime", "1808.49 3600.00\n")
        self.proc("mounts", "/dev/vda1 / ext4 rw,relatime 0 0\n")
        self.cpu(user=300, idle=700)
        self.asked: list[str] = []
        self.facts = self.make()

    def make(self) -> Facts:
        """Return facts that remember nothing yet."""
        return Facts(
            proc=str(self.root / "proc"),
            etc=str(self.root / "etc"),
            usr_lib=str(self.root / "lib"),
            boot_time=lambda: BOOT,
            uname=lambda: UNAME,
            statvfs=self.statvfs,
        )

    def statvfs(self, path: str) -> os.statvfs_result:
        """Answer for any path and remember that it was asked."""
        self.asked.append(path)
        return sizes()

    def proc(self, name: str, text: str) -> None:
        """Write a file of /proc."""
        (self.root / "proc" / name).write_text(text)

    def cpu(self, user: int, idle: int, cores: int = 2, tail: str = "0 0 0 0 0 0 0") -> None:
        """Write the times of the CPU: user, idle and what comes after."""
        lines = [f"cpu  {user} 0 0 {idle} {tail}"]
        lines += [f"cpu{number} 1 2 3 4 0 0 0 0 0 0" for number in range(cores)]
        self.proc("stat", "\n".join([*lines, "intr 5 6", "btime 1777636807", ""]))

    def collect(self) -> dict[str, Any]:
        """Return the facts, as they come out of JSON."""
        collected: dict[str, Any] = json.loads(json.dumps(self.facts.collect(), allow_nan=False))
        return collected


class CollectTests(FactsCase):
    """All facts together."""

    def test_everything(self) -> None:
        """The fields of earlier agents stand beside numbers with their units in the name."""
        (self.root / "etc/os-release").write_text('NAME="Debian"\nVERSION_ID="12"\nID=debian\n')
        self.assertEqual(
            self.collect(),
            {
                "hostname": "node7",
                "uptime": "1808.49",
                "memory": {
                    "MemTotal": "2000000 kB",
                    "MemFree": "300000 kB",
                    "MemAvailable": "1500000 kB",
                    "Buffers": "20000 kB",
                    "Cached": "400000 kB",
                    "SwapTotal": "1000000 kB",
                    "SwapFree": "750000 kB",
                },
                "loadavg": "0.30 1.54 12.00 1/88 19920",
                "os": {"name": "Debian", "version": "12", "id": "debian"},
                "kernel": "6.1.0-42-amd64",
                "architecture": "x86_64",
                "cpu": {
                    "model": "Some Processor: 3 GHz",
                    "cores": 2,
                    "load_1m": 0.3,
                    "load_5m": 1.54,
                    "load_15m": 12.0,
                    "use_percent": 30.0,
                },
                "memory_bytes": {
                    "total": 2000000 * 1024,
                    "available": 1500000 * 1024,
                    "used": 500000 * 1024,
                },
                "swap_bytes": {
                    "total": 1000000 * 1024,
                    "free": 750000 * 1024,
                    "used": 250000 * 1024,
                },
                "disks": [
                    {
                        "mount": "/",
                        "device": "/dev/vda1",
                        "filesystem": "ext4",
                        "total_bytes": 100 * MIB,
                        "used_bytes": 60 * MIB,
                        "free_bytes": 30 * MIB,
                    }
                ],
                "uptime_seconds": 1808,
                "boot_time": "2026-05-01T12:00:07Z",
            },
        )

    def test_nothing_can_be_read(self) -> None:
        """On a machine that shows nothing each fact is missing and nothing is raised."""
        nowhere = str(self.root / "nowhere")
        self.facts = Facts(proc=nowhere, etc=nowhere, usr_lib=nowhere, uname=lambda: UNAME)
        facts = self.collect()
        self.assertEqual(facts.pop("hostname"), "node7")
        self.assertEqual((facts.pop("kernel"), facts.pop("architecture")), (UNAME[2], "x86_64"))
        self.assertEqual((facts.pop("memory"), facts.pop("disks")), ({}, []))
        for name, fact in facts.items():
            values = fact.values() if isinstance(fact, dict) else [fact]
            self.assertEqual(set(values), {None}, name)

    def test_the_boot_time_of_proc(self) -> None:
        """Left to itself the boot time is the one that Processes reads."""
        self.facts = Facts(proc=str(self.root / "proc"))
        self.assertEqual(self.collect()["boot_time"], "2026-05-01T12:00:07Z")

    def test_this_machine(self) -> None:
        """The real machine tells its memory, cores and uptime."""
        self.facts = Facts()
        facts = self.collect()
        self.assertGreater(facts["memory_bytes"]["total"], MIB)
        self.assertGreater(facts["cpu"]["cores"], 0)
        self.assertGreater(facts["uptime_seconds"], 0)
        self.assertEqual(facts["hostname"], os.uname().nodename)

    @given(st.text(max_size=80))
    def test_any_contents(self, text: str) -> None:
        """Whatever the files hold, the answer is valid JSON."""
        self.cpu(user=3, idle=7)
        for name in ("meminfo", "cpuinfo", "loadavg", "uptime", "mounts", "stat"):
            (self.root / "proc" / name).write_bytes(text.encode("utf-8", "surrogatepass"))
        (self.root / "etc/os-release").write_bytes(text.encode("utf-8", "surrogatepass"))
        self.collect()


class SystemTests(FactsCase):
    """The operating system's name."""

    def system(self, text: str, directory: str = "etc") -> dict[str, str | None]:
        """Return the name read from an os-release file."""
        (self.root / directory / "os-release").write_text(text)
        found: dict[str, str | None] = self.collect()["os"]
        return found

    def test_quotes(self) -> None:
        """Values are quoted as in a shell; comments and broken lines are passed over."""
        text = '# NAME=no\n\nNAME=\'Some "OS"\'\nID=o\\ s\nBROKEN="x\nVERSION_ID="9.1"\nword\n'
        self.assertEqual(self.system(text), {"name": 'Some "OS"', "version": "9.1", "id": "o s"})

    def test_a_rolling_release(self) -> None:
        """A system without version tells its build, or nothing."""
        self.assertEqual(self.system("ID=arch\nBUILD_ID=rolling\n")["version"], "rolling")
        self.assertIsNone(self.system("ID=arch\n")["version"])

    def test_the_other_place(self) -> None:
        """The file of /usr/lib holds when /etc has none."""
        self.assertEqual(self.system("ID=alpine\n", "lib")["id"], "alpine")
        self.assertEqual(self.system("ID=debian\n", "etc")["id"], "debian")


class CpuTests(FactsCase):
    """Model, cores, load and use of the CPU."""

    def use(self) -> float | None:
        """Return the share in use."""
        found: float | None = self.collect()["cpu"]["use_percent"]
        return found

    def test_use_between_calls(self) -> None:
        """The first call tells the use since the start, the next ones since the call before."""
        self.assertEqual(self.use(), 30.0)
        self.cpu(user=310, idle=790)
        self.assertEqual(self.use(), 10.0)
        self.cpu(user=410, idle=790)
        self.assertEqual(self.use(), 100.0)
        self.cpu(user=410, idle=890)
        self.assertEqual(self.use(), 0.0)

    def test_waiting_and_guests(self) -> None:
        """Waiting for disks is idle; guest time, part of user time, is not counted twice."""
        self.cpu(user=300, idle=600, tail="50 10 10 30 300 0")
        self.assertEqual(self.use(), 35.0)

    def test_two_calls_close_together(self) -> None:
        """A few ticks tell nothing: the value stays, and they count in the next."""
        self.use()
        self.cpu(user=309, idle=700)
        self.assertEqual(self.use(), 30.0)
        self.cpu(user=309, idle=791)
        self.assertEqual(self.use(), 9.0)

    def test_times_that_fall(self) -> None:
        """Times that go back, as when a core is taken away, tell nothing until the next call."""
        self.use()
        self.cpu(user=1000, idle=600)
        self.assertEqual(self.use(), 30.0)
        self.cpu(user=1050, idle=650)
        self.assertEqual(self.use(), 50.0)
        self.cpu(user=0, idle=0)
        self.assertEqual(self.use(), 50.0)
        self.cpu(user=20, idle=80)
        self.assertEqual(self.use(), 20.0)

    def test_a_line_that_makes_no_sense(self) -> None:
        """Short or wordy lines are no measurement."""
        for text in ("cpu  100 2 3\n", "cpu  a b c d e\n", "cpu0 1 2 3 4\n", ""):
            self.proc("stat", text)
            self.assertIsNone(self.use(), text)

    def test_from_many_threads(self) -> None:
        """Callers in several threads at once each get a value."""
        found: list[Any] = []
        threads = [
            Thread(target=lambda: found.append(self.facts.collect()["cpu"]["use_percent"]))
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        self.assertEqual(found, [30.0] * 8)

    def test_cores(self) -> None:
        """The cores are those that are on."""
        self.cpu(user=1, idle=1, cores=17)
        self.assertEqual(self.collect()["cpu"]["cores"], 17)

    def test_other_architectures(self) -> None:
        """The model has other names elsewhere, and none on many ARM servers."""
        for text, model in (
            ("system type\t: x\ncpu model\t: MIPS 1004Kc\n", "MIPS 1004Kc"),
            ("processor: 0\nCPU part: 0xd0c\nModel: Raspberry Pi 4\n", "Raspberry Pi 4"),
            ("processor\t: 0\nmodel name\t: \nCPU part\t: 0xd0c\n", None),
        ):
            self.proc("cpuinfo", text)
            self.assertEqual(self.collect()["cpu"]["model"], model)

    def test_load_in_part(self) -> None:
        """A load that is no number is left out."""
        self.proc("loadavg", "0.5 nan")
        cpu = self.collect()["cpu"]
        self.assertEqual((cpu["load_1m"], cpu["load_5m"], cpu["load_15m"]), (0.5, None, None))


class MemoryTests(FactsCase):
    """Memory where not all lines are there."""

    def test_an_old_kernel(self) -> None:
        """Without MemAvailable it is what is free or holds no more than copies of files."""
        self.proc("meminfo", MEMINFO.replace("MemAvailable", "Other"))
        facts = self.collect()
        self.assertEqual(facts["memory_bytes"]["available"], 720000 * 1024)
        self.assertEqual(facts["memory_bytes"]["used"], 1280000 * 1024)
        self.assertNotIn("MemAvailable", facts["memory"])

    def test_a_container_that_shows_little(self) -> None:
        """What cannot be computed is None, never a wrong number."""
        self.proc("meminfo", "MemTotal: 1000 kB\nMemFree: 5 kB\nSwapTotal: many kB\nno colon\n")
        facts = self.collect()
        expected = {"total": 1024000, "available": None, "used": None}
        self.assertEqual(facts["memory_bytes"], expected)
        self.assertEqual(facts["swap_bytes"], {"total": None, "free": None, "used": None})

    def test_more_available_than_there_is(self) -> None:
        """A limit below what the host has free does not make a use below zero."""
        self.proc("meminfo", "MemTotal: 1000 kB\nMemAvailable: 2000 kB\n")
        self.assertEqual(self.collect()["memory_bytes"]["used"], 0)


class DiskTests(FactsCase):
    """Which mounts are disks."""

    def mounts(self, *lines: str) -> list[str]:
        """Return the points listed for a mount table, which are also the only ones asked."""
        self.proc("mounts", "".join(f"{line} rw 0 0\n" for line in lines))
        self.asked.clear()
        listed = [disk["mount"] for disk in self.collect()["disks"]]
        self.assertEqual(self.asked, listed)
        return listed

    def test_real_ones_only(self) -> None:
        """Memory, kernel and image filesystems are no disks."""
        listed = self.mounts(
            "/dev/sda1 / xfs",
            "proc /proc proc",
            "tmpfs /run tmpfs",
            "/dev/loop0 /snap/x squashfs",
            "overlay /var/lib/docker/overlay2/x/merged overlay",
            "/dev/sda15 /boot/efi vfat",
            "tank/data /data zfs",
            "/dev/sr0 /media iso9660",
        )
        self.assertEqual(listed, ["/", "/boot/efi", "/data"])

    def test_network_ones_are_never_asked(self) -> None:
        """A filesystem whose server may be away is left alone, and so is a disk below it."""
        listed = self.mounts(
            "/dev/sda1 / ext4",
            "host:/x /mnt nfs4",
            "//host/y /cifs cifs",
            "u@host:/ /ssh fuse.sshfs",
            "/dev/sdc1 /ntfs fuseblk",
            "systemd-1 /auto autofs",
            "/dev/sdb1 /mnt/disk ext4",
            "/dev/sdd1 /mnt2 ext4",
        )
        self.assertEqual(listed, ["/", "/mnt2"])

    def test_nothing_is_asked_below_a_network_one(self) -> None:
        """Not even whether a point below such a filesystem is a file."""
        looked: list[str] = []

        def is_file(path: str) -> bool:
            looked.append(path)
            return False

        self.patch(os.path, "isfile", is_file)
        self.mounts("/dev/sda1 / ext4", "host:/x /mnt nfs", "/dev/sdb1 /mnt/disk ext4")
        self.assertEqual(looked, ["/"])

    def test_a_disk_on_an_automount_point(self) -> None:
        """The disk that an automounter has mounted on its own point is listed."""
        listed = self.mounts("/dev/sda1 / ext4", "systemd-1 /boot autofs", "/dev/sda2 /boot ext4")
        self.assertEqual(listed, ["/", "/boot"])

    def test_what_is_hidden(self) -> None:
        """Of two mounts on one point the later is seen, so only it is told."""
        self.assertEqual(self.mounts("/dev/sda1 /a ext4", "tmpfs /a tmpfs"), [])
        self.assertEqual(self.mounts("/dev/sda1 /a ext4", "/dev/sdb1 /a xfs"), ["/a"])
        self.assertEqual(self.collect()["disks"][0]["device"], "/dev/sdb1")

    def test_one_entry_for_a_device(self) -> None:
        """Subvolumes and bind mounts of one device are one disk, at the point nearest the root."""
        listed = self.mounts(
            "/dev/vda /var/lib/x btrfs", "/dev/vda / btrfs", "/dev/vda /home btrfs"
        )
        self.assertEqual(listed, ["/"])

    def test_a_container(self) -> None:
        """The overlay at the root is the disk; single files mounted from the host are none."""
        file = self.root / "hosts"
        file.write_text("")
        listed = self.mounts("overlay / overlay", f"/dev/vda1 {file.resolve()} ext4")
        self.assertEqual(listed, ["/"])

    def test_a_point_with_spaces(self) -> None:
        """The escapes of the mount table are undone."""
        self.assertEqual(self.mounts(r"/dev/sdb1 /my\040disk\134x ext4"), ["/my disk\\x"])

    def test_one_that_cannot_be_asked(self) -> None:
        """A disk that answers with an error is left out, the others are told."""
        self.proc("mounts", "/dev/sda1 / ext4 rw\n/dev/sdb1 /bad ext4 rw\n/dev/sdc1 /c ext4 rw\n")

        def answer(path: str) -> os.statvfs_result:
            if path == "/bad":
                raise OSError(errno.EIO, "Input/output error")
            return sizes(blocks=0) if path == "/c" else sizes()

        self.patch(self, "statvfs", answer)
        self.facts = self.make()
        self.assertEqual([disk["mount"] for disk in self.collect()["disks"]], ["/"])
