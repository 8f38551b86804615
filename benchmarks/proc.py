"""What the kernel tells of a running process: time used, memory, threads (proc(5))."""

from __future__ import annotations

import os
import time
from pathlib import Path

from attrs import frozen


@frozen
class Memory:
    """Bytes: resident, and those of them that no other process shares."""

    resident: int
    private: int


def cpu_seconds(pid: int) -> float:
    """
    Return the CPU time that all threads of a process have used, those that ended as well.

    It is the sum of utime and stime of /proc/PID/stat, but in nanoseconds rather than in ticks
    of 10 ms: the clock that clock_getcpuclockid(3) names, which Python does not offer.
    """
    return time.clock_gettime((~pid << 3) | 2)


def user_and_system(pid: int) -> tuple[float, float]:
    """Return utime and stime of /proc/PID/stat as seconds."""
    fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    tick = os.sysconf("SC_CLK_TCK")
    return int(fields[11]) / tick, int(fields[12]) / tick


def memory(pid: int) -> Memory:
    """Return what smaps_rollup tells of a process."""
    sizes = _sizes(f"/proc/{pid}/smaps_rollup")
    return Memory(sizes["Rss"], sizes["Private_Clean"] + sizes["Private_Dirty"])


def peak_resident(pid: int) -> int:
    """Return the most bytes that were resident since the start or `forget_peak`."""
    return _sizes(f"/proc/{pid}/status")["VmHWM"]


def forget_peak(pid: int) -> bool:
    """Let the peak begin anew; False where that is not allowed."""
    try:
        Path(f"/proc/{pid}/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def threads(pid: int) -> int:
    """Return the number of threads of a process."""
    return len(os.listdir(f"/proc/{pid}/task"))


def switches(pid: int) -> int:
    """Return how often the threads of a process have slept and been woken since their start."""
    count = 0
    for thread in os.listdir(f"/proc/{pid}/task"):
        for line in Path(f"/proc/{pid}/task/{thread}/status").read_text().splitlines():
            if line.startswith("voluntary_ctxt_switches:"):
                count += int(line.split()[1])
    return count


def _sizes(path: str) -> dict[str, int]:
    pairs = (line.partition(":") for line in Path(path).read_text().splitlines())
    return {
        name: int(value.split()[0]) * 1024
        for name, _, value in pairs
        if value.strip().endswith(" kB")
    }
