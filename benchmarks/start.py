"""How long a start takes and what the idle agent holds: imports, first answers, memory."""

from __future__ import annotations

import sys
import time

from benchmarks import proc, scene
from benchmarks.figures import (
    Import,
    Table,
    by_package,
    imports,
    megabytes,
    milliseconds,
    span,
)
from benchmarks.options import Options
from benchmarks.proc import Memory
from benchmarks.processes import Child, Room, free_port, wait_until

MODULE = "mmwagent.agent"
SHOWN = 10
AIM = 60  # MB


def measure(options: Options) -> None:
    """Print the tables of this part."""
    with Room() as room:
        print(_import_times(room, options.quick), end="\n\n")
        traced = _run(room, "-X", "importtime", "-c", f"import {MODULE}")
        told = imports("\n".join(line for _, line in traced.said))
        print(_slowest_modules(told), end="\n\n")
        print(_slowest_packages(told), end="\n\n")
    print(_starts(options))


def _run(room: Room, *arguments: str) -> Child:
    child = room.start("python", sys.executable, *arguments)
    child.output()
    room.end(child)
    return child


def _import_times(room: Room, quick: bool) -> Table:
    runs = 3 if quick else 5
    table = Table(
        "Imports: a Python from its start to the end of one statement",
        ["statement", "ms, median (range)", "CPU ms"],
        notes=[f"{runs} runs after one that does not count."],
    )
    for statement in ("pass", f"import {MODULE}"):
        timed = [_timed(room, statement) for _ in range(runs + 1)][1:]
        wall, cpu = zip(*timed, strict=True)
        table.row(statement, span(wall, milliseconds), span(cpu, milliseconds))
    return table


def _timed(room: Room, statement: str) -> tuple[float, float]:
    """Return wall and CPU seconds."""
    code = f"{statement}; import time; print(time.process_time(), flush=True)"
    child = _run(room, "-c", code)
    at, cpu = child.said[-1]
    return at - child.started, float(cpu)


def _slowest_modules(told: list[Import]) -> Table:
    table = Table(
        f"The {SHOWN} imports that take longest with all that they import (-X importtime)",
        ["module", "own ms", "total ms"],
        notes=["A total includes what others would import later anyway."],
    )
    slowest = sorted(told, key=lambda each: -each.total)
    for each in slowest[:SHOWN]:
        table.row(each.name, milliseconds(each.own), milliseconds(each.total))
    return table


def _slowest_packages(told: list[Import]) -> Table:
    sums = by_package(told)
    table = Table(
        f"The {SHOWN} packages whose own modules take longest",
        ["package", "own ms", "modules"],
        notes=[f"All {len(told)} modules: {milliseconds(sum(sums.values()))} ms, with tracing."],
    )
    for package, own in list(sums.items())[:SHOWN]:
        count = sum(each.name.partition(".")[0] == package for each in told)
        table.row(package, milliseconds(own), str(count))
    return table


def _starts(options: Options) -> Table:
    runs = 1 if options.quick else 3
    table = Table(
        "Start of the agent: real Xray, stand-in master over TLS",
        ["", "median (range)", "aim"],
        notes=[f"{runs} starts; memory {_settle(options):.0f} s after the first traffic report."],
    )
    outcomes = [_start(options) for _ in range(runs)]
    health, traffic, cpu, memory, threads = zip(*outcomes, strict=True)
    table.row("ms from process start to the first /health", span(health, milliseconds), "")
    table.row("ms to the first traffic report at the master", span(traffic, milliseconds), "")
    table.row("CPU ms until then", span(cpu, milliseconds), "")
    resident = span([each.resident for each in memory], megabytes)
    table.row("resident memory (Rss), MB", resident, f"{AIM} or less")
    table.row("of it private (USS), MB", span([each.private for each in memory], megabytes), "")
    table.row("threads", span(threads, lambda count: f"{count:.0f}"), "")
    return table


def _settle(options: Options) -> float:
    return 4.0 if options.quick else 12.0


def _start(options: Options) -> tuple[float, float, float, Memory, int]:
    with Room() as room:
        xray = scene.xray(room)
        tls = scene.authority(room)
        port = free_port()
        master = scene.standin_master(room, port, tls)
        agent = scene.agent(room, f"https://{scene.HOST}:{port}", tls.ca, xray)
        healthy = wait_until(agent.healthy, "the agent's /health")
        reported, _ = master.line_with(": traffic by websocket")
        cpu = proc.cpu_seconds(agent.pid)
        time.sleep(_settle(options))
        agent.child.check()
        return (
            healthy - agent.child.started,
            reported - agent.child.started,
            cpu,
            proc.memory(agent.pid),
            proc.threads(agent.pid),
        )
