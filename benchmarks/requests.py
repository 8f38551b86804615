"""How many requests a second the management API answers, and how fast."""

from __future__ import annotations

import json

from attrs import frozen

from benchmarks import proc, scene
from benchmarks.figures import Table, milliseconds, percentile, three_digits
from benchmarks.options import Options
from benchmarks.processes import Child, Room, free_port, wait_until

PATHS = ("/health", "/api/child/traffic")
CONNECTIONS = (1, 16)
MOST = 200_000  # requests of one measurement


@frozen
class Load:
    """What the generator tells: seconds of each answer, of all, and CPU seconds it used itself."""

    latencies: list[float]
    seconds: float
    cpu: float


def measure(options: Options) -> None:
    """Print the table of this part."""
    seconds = 1.0 if options.quick else 5.0
    table = Table(
        "Requests to the management API on kept connections, one at a time on each",
        ["GET", "connections", "per second", "p50 ms", "p99 ms", "agent CPU us", "generator CPU"],
        notes=[
            f"{seconds:.0f} s each, after a second that does not count; a real Xray is asked for",
            "each traffic answer. Agent CPU is of one request. Where the generator has its core",
            "to itself for nearly 100 %, it and not the agent is the limit.",
        ],
    )
    with Room() as room:
        xray = scene.xray(room)
        tls = scene.authority(room)
        port = free_port()
        master = scene.standin_master(room, port, tls)
        agent = scene.agent(room, f"https://{scene.HOST}:{port}", tls.ca, xray)
        wait_until(agent.healthy, "the agent's /health")
        master.line_with(": traffic by websocket")
        for path in PATHS:
            for connections in CONNECTIONS:
                _load(room, agent, path, connections, 1.0)
                before = proc.cpu_seconds(agent.pid)
                told = _load(room, agent, path, connections, seconds)
                used = proc.cpu_seconds(agent.pid) - before
                table.row(path, str(connections), *_figures(told, used))
    print(table)


def _load(room: Room, agent: scene.Agent, path: str, connections: int, seconds: float) -> Load:
    wanted = (str(agent.port), path, str(connections), str(seconds), str(MOST))
    child: Child = room.start_module("load", *wanted)
    told = Load(**json.loads(child.output()[-1]))
    room.end(child)
    return told


def _figures(told: Load, used: float) -> list[str]:
    count = len(told.latencies)
    return [
        f"{count / told.seconds:,.0f}",
        milliseconds(percentile(told.latencies, 50)),
        milliseconds(percentile(told.latencies, 99)),
        three_digits(used / count * 1e6),
        f"{told.cpu / told.seconds * 100:.0f} %",
    ]
