"""
Facts about this machine: system, CPU, memory, disks, times.

See README, `GET /api/child/system/info`, and proc(5), os-release(5). The fields the master knows
from earlier agents (`hostname`, `uptime`, `memory`, `loadavg`, all text) stand beside numbers
that carry their unit in the name.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from pathlib import Path
from threading import Lock
from typing import Any

from attrs import frozen

from mmwagent.host.processes import BootTimeUnknown, Processes

_MEMORY_FIELDS = (
    "MemTotal",
    "MemFree",
    "MemAvailable",
    "Buffers",
    "Cached",
    "SwapTotal",
    "SwapFree",
)
# Names of the CPU in /proc/cpuinfo: x86, then other architectures and boards.
_MODEL_FIELDS = ("model name", "cpu model", "cpu", "uarch", "Model", "Hardware", "Processor")
_SHORTEST_CPU_TICKS = 10  # below this the share in use would be noise

_LOCAL_FILESYSTEM = re.compile(
    r"bcachefs|btrfs|exfat|ext[234]|f2fs|jfs|msdos|nilfs2|ntfs3?|reiserfs|simfs|ubifs|ufs|vfat"
    r"|xfs|zfs"
)
# A question to one of these, or through one, can hang for as long as its server is away.
_HANGING_FILESYSTEM = re.compile(
    r"(nfs|cifs|smb|fuse|9p|ceph|gfs|glusterfs|afs|lustre|ncp|coda|orangefs|virtiofs|autofs|ocfs).*"
)


@frozen
class _Mount:
    device: str
    point: str
    filesystem: str

    def is_below(self, other: _Mount) -> bool:
        return self.point.startswith(other.point.rstrip("/") + "/")


class Facts:
    """
    Reads the facts. One object serves all callers, from any thread.

    `collect` blocks for about a millisecond, and a disk may take longer: call it in a thread.
    """

    def __init__(
        self,
        *,
        proc: str = "/proc",
        etc: str = "/etc",
        usr_lib: str = "/usr/lib",
        boot_time: Callable[[], datetime] | None = None,
        uname: Callable[[], os.uname_result] = os.uname,
        statvfs: Callable[[str], os.statvfs_result] = os.statvfs,
    ) -> None:
        self._proc = Path(proc)
        self._os_release = (Path(etc) / "os-release", Path(usr_lib) / "os-release")
        self._boot_time = boot_time or Processes(proc).boot_time
        self._uname = uname
        self._statvfs = statvfs
        self._cpu_lock = Lock()
        self._cpu_times = (0, 0)
        self._cpu_use: float | None = None

    def collect(self) -> dict[str, Any]:
        """
        Return all facts, ready for JSON. What cannot be read is None, or missing from a list.

        `uptime` is text in seconds; `memory` holds text as "N kB"; `boot_time` is RFC 3339 in
        UTC with Z. `cpu.use_percent` is the share in use since the call before, the first time
        since the machine started. `disks[].free_bytes` is what users other than root may use.
        """
        system = self._uname()
        memory = self._memory()
        uptime = _first_word(self._text("uptime"))
        return {
            "hostname": system.nodename,
            "uptime": uptime,
            "memory": {name: memory[name] for name in _MEMORY_FIELDS if name in memory},
            "loadavg": self._text("loadavg"),
            "os": self._os(),
            "kernel": system.release,
            "architecture": system.machine,
            "cpu": self._cpu(),
            "memory_bytes": _memory_bytes(memory),
            "swap_bytes": _swap_bytes(memory),
            "disks": list(self._disks()),
            "uptime_seconds": _whole(uptime),
            "boot_time": self._boot_time_text(),
        }

    def _text(self, name: str) -> str | None:
        return _read(self._proc / name)

    def _os(self) -> dict[str, str | None]:
        text = next(filter(None, map(_read, self._os_release)), "")
        values = dict(_assignments(text))
        return {
            "name": values.get("NAME"),
            "version": values.get("VERSION_ID") or values.get("BUILD_ID"),
            "id": values.get("ID"),
        }

    def _cpu(self) -> dict[str, Any]:
        stat = (self._text("stat") or "").splitlines()
        loads = [_decimal(word) for word in (self._text("loadavg") or "").split()[:3]]
        loads += [None] * (3 - len(loads))
        cores = sum(1 for line in stat if re.match(r"cpu\d", line))
        return {
            "model": self._cpu_model(),
            "cores": cores or None,
            "load_1m": loads[0],
            "load_5m": loads[1],
            "load_15m": loads[2],
            "use_percent": self._cpu_use_percent(stat),
        }

    def _cpu_model(self) -> str | None:
        values: dict[str, str] = {}
        for line in (self._text("cpuinfo") or "").splitlines():
            name, _, value = line.partition(":")
            values.setdefault(name.strip(), value.strip())
        return next((values[name] for name in _MODEL_FIELDS if values.get(name)), None)

    def _cpu_use_percent(self, stat: Iterable[str]) -> float | None:
        """Return the share of time not idle since the measurement before, of all cores."""
        times = next(map(_cpu_times, (line for line in stat if line.startswith("cpu "))), None)
        if times is None:
            return None
        with self._cpu_lock:
            total, idle = (now - then for now, then in zip(times, self._cpu_times, strict=True))
            if total < 0 or idle < 0:  # a core was taken away, or the kernel corrected itself
                self._cpu_times = times
            elif total >= _SHORTEST_CPU_TICKS:
                self._cpu_times = times
                self._cpu_use = round(max(0.0, 100 * (1 - idle / total)), 1)
            return self._cpu_use

    def _memory(self) -> dict[str, str]:
        """Return /proc/meminfo as text by name."""
        lines = (self._text("meminfo") or "").splitlines()
        pairs = (line.partition(":") for line in lines if ":" in line)
        return {name.strip(): " ".join(value.split()) for name, _, value in pairs}

    def _disks(self) -> Iterator[dict[str, Any]]:
        for mount in _disk_mounts(_parse_mounts(self._text("mounts") or "")):
            try:
                sizes = self._statvfs(mount.point)
            except (OSError, ValueError):
                continue
            unit = sizes.f_frsize or sizes.f_bsize
            if sizes.f_blocks:
                yield {
                    "mount": mount.point,
                    "device": mount.device,
                    "filesystem": mount.filesystem,
                    "total_bytes": sizes.f_blocks * unit,
                    "used_bytes": (sizes.f_blocks - sizes.f_bfree) * unit,
                    "free_bytes": sizes.f_bavail * unit,
                }

    def _boot_time_text(self) -> str | None:
        try:
            return self._boot_time().strftime("%Y-%m-%dT%H:%M:%SZ")
        except BootTimeUnknown:
            return None


def _parse_mounts(text: str) -> list[_Mount]:
    """Return what can be seen: of several mounts on one point the last hides the others."""
    mounts: dict[str, _Mount] = {}
    for fields in map(str.split, text.splitlines()):
        if len(fields) >= 3:
            device, point = _unescape(fields[0]), _unescape(fields[1])
            mounts[point] = _Mount(device=device, point=point, filesystem=fields[2])
    return list(mounts.values())


def _disk_mounts(mounts: list[_Mount]) -> list[_Mount]:
    """Return one mount for each local device, the one nearest to the root."""
    hanging = [mount for mount in mounts if _HANGING_FILESYSTEM.fullmatch(mount.filesystem)]
    found: dict[str, _Mount] = {}
    for mount in sorted(mounts, key=lambda mount: len(mount.point)):
        # Nothing is asked of a path before it is known to lead through no server.
        if not any(mount.is_below(other) for other in hanging) and _is_disk(mount):
            found.setdefault(mount.device, mount)
    return sorted(found.values(), key=lambda mount: mount.point)


def _is_disk(mount: _Mount) -> bool:
    if _LOCAL_FILESYSTEM.fullmatch(mount.filesystem):
        # Container engines mount single files such as /etc/hosts from the disk of the host.
        return not os.path.isfile(mount.point)
    # In a container the root is an overlay: the only sight of the disk there is.
    return mount.point == "/" and mount.filesystem == "overlay"


def _unescape(text: str) -> str:
    """Undo the octal escapes of the mount table: space, tab, newline, backslash."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def _cpu_times(line: str) -> tuple[int, int] | None:
    """Return the ticks in total and idle. Guest time, from field 9 on, is in user time too."""
    try:
        ticks = [int(word) for word in line.split()[1:9]]
    except ValueError:
        return None
    return (sum(ticks), sum(ticks[3:5])) if len(ticks) >= 4 else None


def _memory_bytes(memory: dict[str, str]) -> dict[str, int | None]:
    total = _bytes(memory, "MemTotal")
    available = _bytes(memory, "MemAvailable")
    if available is None:  # before Linux 3.14
        parts = [_bytes(memory, name) for name in ("MemFree", "Buffers", "Cached")]
        available = None if None in parts else sum(part or 0 for part in parts)
    return {"total": total, "available": available, "used": _difference(total, available)}


def _swap_bytes(memory: dict[str, str]) -> dict[str, int | None]:
    total, free = _bytes(memory, "SwapTotal"), _bytes(memory, "SwapFree")
    return {"total": total, "free": free, "used": _difference(total, free)}


def _difference(total: int | None, rest: int | None) -> int | None:
    return None if total is None or rest is None else max(0, total - rest)


def _bytes(memory: dict[str, str], name: str) -> int | None:
    kibibytes = _whole(memory.get(name, "").removesuffix("kB"))
    return None if kibibytes is None else kibibytes * 1024


def _assignments(text: str) -> Iterator[tuple[str, str]]:
    """Give the variables of an os-release file; a line with an open quote is passed over."""
    for line in text.splitlines():
        name, found, value = line.partition("=")
        if found:
            try:
                yield name.strip(), "".join(shlex.split(value))
            except ValueError:
                continue


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def _first_word(text: str | None) -> str | None:
    return next(iter((text or "").split()), None)


def _decimal(text: str) -> float | None:
    return float(text) if re.fullmatch(r"\d{1,15}(\.\d{1,15})?", text.strip()) else None


def _whole(text: str | None) -> int | None:
    number = _decimal(text or "")
    return None if number is None else int(number)
