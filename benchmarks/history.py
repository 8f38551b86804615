"""
Is every byte counted, and none twice, whatever is killed and whenever?

Random traffic goes through a real Xray while it, the agent and the master are killed with -9 and
started again, and the network between agent and master freezes, breaks and refuses.

What is not as in real life:
- The master lives in the process that checks. To kill it means to close its port and to cut all
  its connections; its ledger outlives that, as the database of the real one does.
- Boot times are whole seconds on the wire, so two runs of Xray never start in the same second.
- Xray is told not to have the kernel carry bytes (splice): else it counts a download at its end.
- A network that thaws brings what is older first.
"""

from __future__ import annotations

import json
import random
from collections import Counter

from attrs import asdict, define, field

from benchmarks.figures import Table
from benchmarks.options import Options
from benchmarks.processes import CannotMeasure, Room

WAYS = ("uplink", "downlink")
RECOVERY = 6.0  # seconds for the first report once all is whole again
GAP = 5.0  # seconds between two reports while all is whole: the interval is 1 s
LATE = 120.0  # seconds for what is broken at the end to be mended, and the start


@define
class Found:
    """What a history came to; `broken` are the claims that do not hold, with a first case."""

    seed: int
    seconds: float
    kills: Counter[str] = field(factory=Counter)
    reports: Counter[str] = field(factory=Counter)
    passed: dict[str, int] = field(factory=dict)
    may: dict[str, int] = field(factory=dict)
    july: dict[str, int] = field(factory=dict)
    lost_at_least: dict[str, int] = field(factory=dict)
    lost_at_most: dict[str, int] = field(factory=dict)
    may_misses: dict[str, int] = field(factory=dict)
    july_misses: dict[str, int] = field(factory=dict)
    hidden_from_may: int = 0
    hidden_from_july: int = 0
    fetches: int = 0
    fetches_broken: int = 0
    recovery: float = 0.0
    gap: float = 0.0
    broken: dict[str, str] = field(factory=dict)

    def __str__(self) -> str:
        table = Table(f"Bytes of the user, seed {self.seed}, {self.seconds:.0f} s", ["", *WAYS])
        for name, sums in (
            ("passed", self.passed),
            ("lost with killed Xrays, at least", self.lost_at_least),
            ("lost with killed Xrays, at most", self.lost_at_most),
            ("counted by the May master", self.may),
            (f"... hidden from it, in {self.hidden_from_may} restarts", self.may_misses),
            ("... difference", self._difference(self.may, self.may_misses)),
            ("counted by the July master", self.july),
            (f"... hidden from it, in {self.hidden_from_july} restarts", self.july_misses),
            ("... difference", self._difference(self.july, self.july_misses)),
        ):
            table.row(name, *(f"{sums[way]:,}" for way in WAYS))
        table.notes = [
            f"killed and cut: {_listed(self.kills)}",
            f"reports taken: {_listed(self.reports)}",
            f"fetches: {self.fetches} to the end, {self.fetches_broken} broken off",
            f"longest silence: {self.recovery:.1f} s after all was whole again,"
            f" {self.gap:.1f} s later on",
            *(f"BROKEN: {claim}; first: {case}" for claim, case in self.broken.items()),
            *([] if self.broken else ["all claims hold"]),
        ]
        return str(table)

    def _difference(self, counted: dict[str, int], misses: dict[str, int]) -> dict[str, int]:
        """Return what is missing for no reason that is known."""
        return {
            way: self.passed[way] - self.lost_at_most[way] - misses[way] - counted[way]
            for way in WAYS
        }

    def to_json(self) -> str:
        """Return it as one line, which `from_json` takes."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> Found:
        """Return what `to_json` gave."""
        return cls(**json.loads(line))


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {what}" for what, count in sorted(counts.items()))


def measure(options: Options) -> None:
    """Print what a history came to. Raises CannotMeasure where a claim does not hold."""
    seed = random.randrange(10_000) if options.seed is None else options.seed
    seconds = 30.0 if options.quick else options.minutes * 60
    print(f"seed {seed}", flush=True)
    with Room() as room:
        child = room.start_module("history_scene", str(room.path), str(seconds), str(seed))
        found = Found.from_json(child.output(seconds + LATE)[-1])
    print(found)
    if found.broken:
        raise CannotMeasure(f"the history of seed {seed} is not as claimed")
