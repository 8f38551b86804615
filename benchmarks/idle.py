"""What the agent costs while nothing happens but its own reports at their default intervals."""

from __future__ import annotations

import time

from benchmarks import proc, scene
from benchmarks.figures import Table, megabytes, three_digits
from benchmarks.options import Options
from benchmarks.processes import CannotMeasure, Child, Room, free_port

SETTLE = 10.0  # seconds after the first report: the start is another part
AIM = 0.1  # per cent of a core
ORIGINAL = 0.02


def measure(options: Options) -> None:
    """Print the table of this part."""
    with Room() as room:
        xray = scene.xray(room)
        tls = scene.authority(room)
        port = free_port()
        master = scene.standin_master(room, port, tls)
        agent = scene.agent(room, f"https://{scene.HOST}:{port}", tls.ca, xray)
        master.line_with(": traffic by websocket")
        time.sleep(SETTLE)
        print(_idle(agent.pid, master, 30.0 if options.quick else options.minutes * 60))


def _idle(pid: int, master: Child, seconds: float) -> Table:
    begun, cpu = time.monotonic(), proc.cpu_seconds(pid)
    ticks, switches = proc.user_and_system(pid), proc.switches(pid)
    time.sleep(seconds)
    master.check()
    cpu = proc.cpu_seconds(pid) - cpu
    took = time.monotonic() - begun
    user, system = (
        after - before for before, after in zip(ticks, proc.user_and_system(pid), strict=True)
    )
    memory = proc.memory(pid)

    reports = [line for at, line in master.said if at > begun]
    kinds = ("heartbeat", "traffic", "speed")
    counts = [sum(f": {kind} by websocket" in line for line in reports) for kind in kinds]
    if not all(counts) and seconds > 70:
        raise CannotMeasure(f"the agent was not connected all the time: reports {counts}")

    table = Table(
        f"Idle: {took / 60:.1f} minutes at default intervals over WebSocket and TLS, real Xray",
        ["", "measured", "aim", "original"],
    )
    table.row("CPU, % of a core", f"{cpu / took * 100:.3f}", f"{AIM:g} or less", f"{ORIGINAL:g}")
    table.row("CPU ms in all", three_digits(cpu * 1000), "", "")
    table.row("... utime + stime in ticks, ms", f"{user * 1000:.0f} + {system * 1000:.0f}", "", "")
    table.row("wake-ups per second", f"{(proc.switches(pid) - switches) / took:.2f}", "", "")
    table.row("resident memory (Rss), MB", megabytes(memory.resident), "60 or less", "")
    table.row("of it private (USS), MB", megabytes(memory.private), "", "")
    table.row("threads", str(proc.threads(pid)), "", "")
    for kind, count in zip(kinds, counts, strict=True):
        table.row(f"{kind} reports at the master", str(count), "", "")
    return table
