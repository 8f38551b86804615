"""`python -m benchmarks [PART ...]`: measure the agent, print tables."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import NoReturn

from benchmarks import faults, history, idle, machine, report, requests, start
from benchmarks.options import Options
from benchmarks.processes import CannotMeasure

PARTS: dict[str, tuple[Callable[[Options], None], str]] = {
    "start": (start.measure, "imports, first answers, memory of the idle agent"),
    "report": (report.measure, "CPU and memory of a traffic report, 100 to 50,000 users"),
    "requests": (requests.measure, "requests per second and latency of the management API"),
    "idle": (idle.measure, "CPU at default intervals over some minutes"),
    "faults": (faults.measure, "a bad network: what the agent notices, and how it comes back"),
    "history": (history.measure, "everything killed at random: is each byte counted, and once"),
}


def options_from(arguments: Sequence[str]) -> tuple[list[str], Options]:
    """Return the parts to measure, in the order of PARTS, and how."""
    listed = "\n".join(f"  {name:9} {text}" for name, (_, text) in PARTS.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure the agent on this machine.",
        epilog=f"parts, all when none is named:\n{listed}\n\n"
        "They need the peers (make peers). All runs in temporary directories, on 127.0.0.1.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("parts", nargs="*", metavar="part", help=", ".join(PARTS))
    parser.add_argument(
        "--minutes", type=float, default=5.0, metavar="N", help="length of idle and history (5)"
    )
    parser.add_argument("--seed", type=int, metavar="N", help="the history to repeat")
    parser.add_argument("--quick", action="store_true", help="a rough look: less of everything")
    parsed = parser.parse_args(arguments)
    for name in parsed.parts:
        if name not in PARTS:
            parser.error(f"no part is called {name!r}: there are {', '.join(PARTS)}")
    if not 0 < parsed.minutes <= 24 * 60:
        parser.error("--minutes must be above 0 and at most 1440")
    wanted = [name for name in PARTS if not parsed.parts or name in parsed.parts]
    return wanted, Options(parsed.minutes, parsed.quick, parsed.seed)


def main(arguments: Sequence[str]) -> int:
    """Measure; return the exit status: 1 where a part could not be measured."""
    wanted, options = options_from(arguments)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    status = 0
    try:
        print(machine.described(), flush=True)
        for name in wanted:
            print(f"\n== {name}: {PARTS[name][1]}\n", flush=True)
            try:
                PARTS[name][0](options)
            except CannotMeasure as problem:
                print(f"cannot measure {name}: {problem}", file=sys.stderr)
                status = 1
            sys.stdout.flush()
        print(f"\n{machine.load()} after the last measurement, ours in it")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return status


def _end(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)  # so that what was started is ended


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
