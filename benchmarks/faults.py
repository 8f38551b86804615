"""What faults of the network do to the agent: how soon it notices, and is back; how it stops."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

from benchmarks.fault_scene import FAULTS, STOPS, Fault, Stop
from benchmarks.figures import Table
from benchmarks.options import Options
from benchmarks.processes import Child, Room

AT_ONCE = 6  # scenes side by side: they mostly wait
PATIENCE = 900.0  # seconds for one of them: a fault, its recovery, and what goes before
NOTICE_AIM = 60  # seconds
STOP_AIM = 5


def measure(options: Options) -> None:
    """Print the tables of this part."""
    faults = [fault for fault in FAULTS if fault.quick or not options.quick]
    stops = [stop for stop in STOPS if stop.quick or not options.quick]
    # The room inside: whatever happens the children end, and with them the threads.
    with ThreadPoolExecutor(AT_ONCE) as threads, Room() as room:
        outcomes = _outcomes(room, threads, [*faults, *stops])
    print(_fault_table(faults, outcomes), end="\n\n")
    print(_stop_table(stops, outcomes))


def _outcomes(
    room: Room, threads: ThreadPoolExecutor, scenes: Sequence[Fault | Stop]
) -> dict[str, Any]:
    """Play all scenes, the first first, and return the outcome of each by its name."""
    outcomes = {}
    waiting = list(scenes)
    playing: dict[Future[list[str]], tuple[str, Child]] = {}
    while waiting or playing:
        while waiting and len(playing) < AT_ONCE:
            scene = waiting.pop(0)
            directory = room.path / f"scene-{len(waiting)}"
            directory.mkdir()
            child = room.start_module("fault_scene", str(directory), scene.name)
            playing[threads.submit(child.output, PATIENCE)] = scene.name, child
        for ended in wait(playing, return_when=FIRST_COMPLETED).done:
            name, child = playing.pop(ended)
            outcomes[name] = json.loads(ended.result()[-1])
            room.end(child)
    return outcomes


def _fault_table(faults: Sequence[Fault], outcomes: dict[str, Any]) -> Table:
    table = Table(
        "Faults between the agent (mode auto, traffic each 5 s) and its master",
        [
            "fault",
            "held s",
            f"noticed s (aim {NOTICE_AIM})",
            "HTTP bridges",
            "first report s",
            "WebSocket s",
            "longest silence s",
            "bytes off",
            "violations",
        ],
        notes=[
            "noticed: from the fault's begin to the log line or the first report over HTTP.",
            "HTTP bridges: reports came by it before the WebSocket was back, maybe after the end.",
            "first report, WebSocket: from the fault's end to a report by any door, by that door.",
            "A fault begins with the session, which is when the next ping is farthest off.",
            f"By design {20 + 15} s to notice silence, then 5, 10, ... 300 s (20 % more or less)",
            "between two dials, each of which waits 10 s for an answer.",
        ],
    )
    for fault in faults:
        found = outcomes[fault.name]
        table.row(
            fault.name,
            f"{fault.held:.0f}" if fault.held else "",
            _seconds(found["noticed"], "not at all"),
            "yes" if found["bridged"] else "no",
            _seconds(found["any"], ""),
            _seconds(found["recovered"], ""),
            _seconds(found["silence"], ""),
            str(found["wrong_bytes"]),
            str(len(found["violations"])),
        )
        table.notes += [f"{fault.name}: {violation}" for violation in found["violations"]]
    return table


def _stop_table(stops: Sequence[Stop], outcomes: dict[str, Any]) -> Table:
    table = Table("SIGTERM", ["the agent is", f"ended after s (aim {STOP_AIM})", "status"])
    for stop in stops:
        found = outcomes[stop.name]
        table.row(stop.name, _seconds(found["seconds"], "not at all"), str(found["status"]))
        if found["traceback"]:
            table.notes.append(f"{stop.name}: there was a traceback")
    return table


def _seconds(value: float | None, otherwise: str) -> str:
    return otherwise if value is None else f"{value:.1f}"
