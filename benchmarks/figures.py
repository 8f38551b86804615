"""Sums up measurements and prints them as tables. Pure."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence

from attrs import define, field, frozen


def median(values: Iterable[float]) -> float:
    """Return the middle of `values`, of an even number the mean of the two. Raises ValueError."""
    ordered = sorted(values)
    if not ordered:
        raise ValueError("there is no median of nothing")
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def percentile(values: Iterable[float], percent: float) -> float:
    """
    Return the smallest of `values` that `percent` of them do not exceed (nearest rank).

    It is always a value that was measured. Raises ValueError where there is none, or `percent` is
    not above 0 and at most 100.
    """
    ordered = sorted(values)
    if not ordered:
        raise ValueError("there is no percentile of nothing")
    if not 0 < percent <= 100:
        raise ValueError(f"a percentile is above 0 and at most 100, not {percent}")
    return ordered[max(1, math.ceil(len(ordered) * percent / 100)) - 1]


def since_latest(starts: Sequence[float], ends: Iterable[float]) -> list[float]:
    """Return for each of `ends` the time since the latest of `starts`, which rise, before it."""
    return [end - starts[bisect_left(starts, end) - 1] for end in ends if starts[0] < end]


def three_digits(value: float) -> str:
    """Return `value` with three digits that mean something: 0.0123, 1.23, 12.3, 1234."""
    if value == 0:
        return "0"
    decimals = 2 - math.floor(math.log10(abs(value)))
    return f"{value:.{max(0, decimals)}f}"


def span(values: Sequence[float], unit: Callable[[float], str] = three_digits) -> str:
    """Return "median (least to most)", or the value alone where there is but one."""
    if len(values) == 1:
        return unit(values[0])
    return f"{unit(median(values))} ({unit(min(values))} to {unit(max(values))})"


def milliseconds(seconds: float) -> str:
    """Return `seconds` as milliseconds, without the unit."""
    return three_digits(seconds * 1000)


def megabytes(count: float) -> str:
    """Return bytes as MB of 1024 * 1024 bytes with one decimal, without the unit."""
    return f"{count / 2**20:.1f}"


@define
class Table:
    """A table of text: the first column to the left, the others, which hold figures, right."""

    title: str
    heads: Sequence[str]
    rows: list[Sequence[str]] = field(factory=list)
    notes: list[str] = field(factory=list)

    def row(self, *cells: str) -> None:
        """Add a row, which has a cell for each head."""
        if len(cells) != len(self.heads):
            raise ValueError(f"{len(cells)} cells for {len(self.heads)} columns")
        self.rows.append(cells)

    def __str__(self) -> str:
        lines = [self.heads, *self.rows]
        widths = [max(len(line[column]) for line in lines) for column in range(len(self.heads))]
        rule = ["-" * width for width in widths]
        body = [_laid_out(line, widths) for line in (self.heads, rule, *self.rows)]
        return "\n".join([self.title, *body, *self.notes])


def _laid_out(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = zip(cells, widths, strict=True)
    return "  ".join(
        [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]
    ).rstrip()


@frozen
class Import:
    """One line of `python -X importtime`. Times are seconds; `total` includes what it imports."""

    name: str
    own: float
    total: float


def imports(text: str) -> list[Import]:
    """Return the modules that `python -X importtime` tells of in `text`; other lines are left."""
    found = []
    for line in text.splitlines():
        own, _, rest = line.removeprefix("import time:").partition("|")
        total, _, name = rest.partition("|")
        if line.startswith("import time:") and own.strip().isdigit() and total.strip().isdigit():
            found.append(Import(name.strip(), int(own) / 1e6, int(total) / 1e6))
    return found


def by_package(modules: Iterable[Import]) -> dict[str, float]:
    """Return the own time of each top-level package's modules in all, the longest first."""
    sums: dict[str, float] = {}
    for module in modules:
        package = module.name.partition(".")[0]
        sums[package] = sums.get(package, 0) + module.own
    return dict(sorted(sums.items(), key=lambda item: -item[1]))
