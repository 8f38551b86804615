"""What a traffic report costs, from the scrape of Xray to the last byte sent."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from itertools import pairwise

from attrs import frozen

from benchmarks import proc, scene
from benchmarks.figures import Table, median, megabytes, milliseconds, since_latest, span
from benchmarks.options import Options
from benchmarks.processes import Child, Room, free_port

ORIGINAL = {100: (1.5, 31), 1_000: (4, 33), 10_000: (28, 39), 50_000: (150, 62)}  # ms, MB
INTERVAL = 1.0  # seconds: the shortest that the agent takes
AFTERMATH = 0.2  # seconds until nothing is left to do of a report that has arrived


@frozen
class Reports:
    """Seconds of each report, and bytes."""

    cpu: Sequence[float]
    wall: Sequence[float]
    size: int
    peak: int
    settled: int
    peak_is_of_reports: bool


def measure(options: Options) -> None:
    """Print the tables of this part."""
    count = 5 if options.quick else 15
    for secure in (True, False):
        title = "TLS" if secure else "plain TCP"
        print(_whole(count, secure, f"Traffic reports over WebSocket, {title}"), end="\n\n")
    print(_in_pieces(count))


def _whole(count: int, secure: bool, title: str) -> Table:
    table = Table(
        title,
        [
            "users",
            "CPU ms",
            "original",
            "wall ms",
            "message KB",
            "peak MB",
            "original",
            "after MB",
        ],
        notes=[
            f"Medians of {count} reports, one each {INTERVAL:.0f} s. CPU: all threads of the",
            "agent's process, its housekeeping of that second included. Wall: from the request at",
            "Xray to the whole message at the master. Peak: VmHWM over these reports.",
        ],
    )
    for users, (milliseconds_before, megabytes_before) in ORIGINAL.items():
        with Room() as room:
            seen = _reports(room, users, count, secure)
        table.row(
            f"{users:,}",
            span(seen.cpu, milliseconds),
            f"{milliseconds_before:g}",
            milliseconds(median(seen.wall)),
            f"{seen.size / 1024:.0f}",
            megabytes(seen.peak) + ("" if seen.peak_is_of_reports else " (with the start)"),
            str(megabytes_before),
            megabytes(seen.settled),
        )
    return table


def _doubles(room: Room, users: int, secure: bool) -> tuple[Child, Child, int, str, str]:
    """Start Xray's metrics and the master; return them, the port, the master's address, a CA."""
    metrics, port = free_port(), free_port()
    xray = room.start_module("fake_xray", str(metrics), str(users))
    tls = scene.authority(room)
    served = [tls.certificate, tls.key] if secure else []
    master = room.start_module("sink", str(port), *served)
    xray.line_with("serving")
    master.line_with("serving")
    address = f"{'https' if secure else 'http'}://{scene.HOST}:{port}"
    return xray, master, metrics, address, tls.ca if secure else ""


def _reports(room: Room, users: int, count: int, secure: bool) -> Reports:
    xray, master, metrics, address, ca = _doubles(room, users, secure)
    agent = scene.agent(
        room,
        address,
        ca,
        scene.xray_configuration(room, metrics),
        traffic_report_interval=INTERVAL,
        speed_report_interval=600,
        heartbeat_interval=240,
    )
    for _ in range(2):  # the first ones fill caches and the heap
        master.line_with("traffic")
    time.sleep(AFTERMATH)
    forgotten = proc.forget_peak(agent.pid)
    used = [proc.cpu_seconds(agent.pid)]
    arrived = []
    for _ in range(count):
        _, line = master.line_with("traffic")
        arrived.append(line.split())
        time.sleep(AFTERMATH)
        used.append(proc.cpu_seconds(agent.pid))
    asked = [float(line.split()[1]) for _, line in xray.said if line.startswith("asked")]
    return Reports(
        [after - before for before, after in pairwise(used)],
        since_latest(asked, [float(line[2]) for line in arrived]),
        int(arrived[-1][1]),
        proc.peak_resident(agent.pid),
        proc.memory(agent.pid).resident,
        forgotten,
    )


def _in_pieces(count: int) -> Table:
    noted = {users: _pieces(users, count) for users in ORIGINAL}
    table = Table(
        "The same in pieces, over TLS: CPU ms",
        ["stage", *(f"{users:,} users" for users in noted)],
        notes=[
            f"Medians of {count} reports made by the agent's own code in a process of its own.",
            "The stages marked * each hold up everything else for that long.",
        ],
    )
    for stage in next(iter(noted.values())):
        table.row(stage, *(milliseconds(median(pieces[stage])) for pieces in noted.values()))
    sums = [sum(map(median, pieces.values())) for pieces in noted.values()]
    table.row("sum", *map(milliseconds, sums))
    return table


def _pieces(users: int, count: int) -> dict[str, list[float]]:
    """Return the CPU seconds of each stage."""
    with Room() as room:
        *_, metrics, address, ca = _doubles(room, users, secure=True)
        url = f"http://{scene.HOST}:{metrics}/debug/vars"
        child = room.start_module("stages", url, address, ca, str(count))
        pieces: dict[str, list[float]] = json.loads(child.output()[-1])
    return pieces
