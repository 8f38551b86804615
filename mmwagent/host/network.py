"""
The speed of this machine's network, from the counters of /proc/net/dev.

See README, speed collection. Three parts: `Interfaces` reads the counters of the interfaces that
count, `speed_between` turns two readings into a speed, and `SpeedSampler` does so at intervals
for everybody who wants to know.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from math import floor
from pathlib import Path

from attrs import frozen
from twisted.application.service import Service
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from mmwagent.logs import logger

log = logger()

FIRST_SPEED_AFTER = 1.0
"""Seconds between the first reading and the second: nobody waits a whole interval at start."""

STALE_INTERVALS = 3
"""A speed is told as the current one for so many intervals, no longer."""

REDECIDE_SECONDS = 60.0
"""How often it is decided anew which interfaces count: routes and bonds change silently."""

# The last colon ends the name, so an alias such as eth0:1 keeps its own. Old kernels glue the
# first number to it. 8 numbers received, 8 sent.
_LINE = re.compile(r"\s*(\S+):\s*(\d+(?:\s+\d+){15,})\s*")
_STOPPED = "the speed is no longer measured: the agent stops"
_LOOPBACK_TYPE = 772  # ARPHRD_LOOPBACK
_ROUTE_UP = 0x0001
_ROUTE_REJECT = 0x0200


@frozen
class Counters:
    """Bytes an interface has received and sent since it exists."""

    received: int
    sent: int


@frozen
class Speed:
    """Bytes per second over all interfaces that count, both at least 0."""

    upload: int
    download: int


class SpeedUnavailable(Exception):
    """The speed cannot be told; the text says why."""


def parse_counters(text: str) -> dict[str, Counters]:
    """Return the counters in the text of /proc/net/dev by interface, malformed lines left out."""
    counters = {}
    for line in text.splitlines():
        match = _LINE.fullmatch(line)
        if match:
            numbers = match[2].split()
            counters[match[1]] = Counters(received=int(numbers[0]), sent=int(numbers[8]))
    return counters


def default_route_interfaces(ipv4: str, ipv6: str) -> set[str]:
    """Return the interfaces of the default routes in /proc/net/route and /proc/net/ipv6_route."""
    found = set()
    for fields in map(str.split, ipv4.splitlines()):
        # interface, destination, gateway, flags, references, uses, metric, mask
        if len(fields) >= 8 and _is_default(fields[1], fields[7], fields[3]):
            found.add(fields[0])
    for fields in map(str.split, ipv6.splitlines()):
        # destination, its length, source, its length, next hop, 3 numbers, flags, interface
        if len(fields) >= 10 and _is_default(fields[0], fields[1], fields[8]):
            found.add(fields[9])
    return found


def _is_default(destination: str, mask: str, flags: str) -> bool:
    try:
        value = int(flags, 16)
    except ValueError:
        return False
    is_usable = bool(value & _ROUTE_UP) and not value & _ROUTE_REJECT
    return is_usable and not destination.strip("0") and not mask.strip("0")


def speed_between(
    before: Mapping[str, Counters], after: Mapping[str, Counters], seconds: float
) -> Speed:
    """
    Return the speed between two readings `seconds` apart.

    The difference is taken per interface and then summed, so one that appears or disappears
    changes nothing. One whose counter fell (reset, or 32 bits overflowed) is left out.
    """
    received = sent = 0
    for name in before.keys() & after.keys():
        down = after[name].received - before[name].received
        up = after[name].sent - before[name].sent
        if down >= 0 and up >= 0:
            received += down
            sent += up
    return Speed(upload=int(sent / seconds), download=int(received / seconds))


class Interfaces:
    """
    The interfaces that count as this machine's traffic, and their counters.

    Those with hardware behind them count, as sysfs tells: bonds, bridges, VLANs, tunnels and the
    veths of containers have none, so no byte is counted twice. A machine without any (LXC,
    OpenVZ, containers) counts the interfaces of its default routes, and failing that all that
    stand on no other one. The loopback never counts.

    `include` and `exclude` are shell patterns of names. With `include` exactly the matching ones
    count; `exclude` wins over everything.
    """

    def __init__(
        self,
        clock: IReactorTime,
        *,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        counters: str = "/proc/net/dev",
        sysfs: str = "/sys/class/net",
        ipv4_routes: str = "/proc/net/route",
        ipv6_routes: str = "/proc/net/ipv6_route",
    ) -> None:
        self._clock = clock
        self._include = tuple(include)
        self._exclude = tuple(exclude)
        self._counters = Path(counters)
        self._sysfs = Path(sysfs)
        self._routes = (Path(ipv4_routes), Path(ipv6_routes))
        self._decided_for: frozenset[tuple[str, int]] | None = None
        self._decided_at = 0.0
        self._chosen: frozenset[str] | None = None

    def read(self) -> dict[str, Counters]:
        """
        Return the counters of the interfaces that count, by name.

        Raises OSError when the counters cannot be read, ValueError when they name no interface.
        """
        counters = parse_counters(self._counters.read_text(encoding="utf-8", errors="replace"))
        if not counters:
            raise ValueError(f"{self._counters} names no interface")
        chosen = self._remembered_choice(counters)
        return {name: value for name, value in counters.items() if name in chosen}

    def _remembered_choice(self, names: Iterable[str]) -> frozenset[str]:
        """Decide only when an interface came, went or was replaced, and now and then."""
        inodes = self._inodes()
        present = frozenset((name, inodes.get(name, 0)) for name in names)
        now = self._clock.seconds()
        due = not 0 <= now - self._decided_at < REDECIDE_SECONDS
        if self._chosen is not None and present == self._decided_for and not due:
            return self._chosen
        chosen = frozenset(self._choose({name for name, _ in present}))
        if chosen != self._chosen:
            log.info("the speed counts the interfaces {interfaces}", interfaces=sorted(chosen))
        self._decided_for, self._decided_at, self._chosen = present, now, chosen
        return chosen

    def _inodes(self) -> dict[str, int]:
        # An interface that is made again under its old name has a new index, and a new entry in
        # sysfs. The entry's inode comes with the directory, the index costs a file each.
        try:
            with os.scandir(self._sysfs) as entries:
                return {entry.name: entry.inode() for entry in entries}
        except OSError:
            return {}

    def _choose(self, names: Collection[str]) -> set[str]:
        if self._include:
            chosen = {name for name in names if _matches(name, self._include)}
        else:
            chosen = self._with_hardware(names) or self._routed(names) or self._lowest(names)
        return {
            name
            for name in chosen
            if not self._is_loopback(name) and not _matches(name, self._exclude)
        }

    def _with_hardware(self, names: Iterable[str]) -> set[str]:
        real = {name for name in names if self._has_device(name) and not self._is_loopback(name)}
        # A virtual function is enslaved to the interface of the hypervisor that shows the same
        # packets (Hyper-V, net_failover). The master of a bond has no device, its slaves count.
        return self._unstacked({name for name in real if self._master(name) not in real})

    def _routed(self, names: Iterable[str]) -> set[str]:
        routed = default_route_interfaces(*(_text(path) for path in self._routes))
        return self._unstacked({name for name in names if name in routed})

    def _lowest(self, names: Iterable[str]) -> set[str]:
        candidates = {name for name in names if not self._is_loopback(name)}
        return {name for name in self._unstacked(candidates) if self._master(name) is None}

    def _unstacked(self, names: Collection[str]) -> set[str]:
        """Return `names` without those that send through another one of them."""
        by_index = {self._number(name, "ifindex"): name for name in names}
        by_index.pop(None, None)  # not in sysfs
        found = set()
        for name in names:
            below = by_index.get(self._number(name, "iflink"), name)
            base = name.partition(":")[0]  # of an alias, which shows the counters of its base
            if below == name and (base == name or base not in names):
                found.add(name)
        return found

    def _has_device(self, name: str) -> bool:
        return os.path.lexists(f"{self._sysfs}/{name}/device")  # asked of each: no Path made

    def _is_loopback(self, name: str) -> bool:
        return name == "lo" or self._number(name, "type") == _LOOPBACK_TYPE

    def _master(self, name: str) -> str | None:
        try:
            return os.path.basename(os.readlink(self._sysfs / name / "master"))
        except OSError:
            return None

    def _number(self, name: str, attribute: str) -> int | None:
        try:
            return int(_text(self._sysfs / name / attribute))
        except ValueError:
            return None


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


class SpeedSampler(Service):
    """
    Measures the speed at intervals, once for all who ask.

    The counters are read at start, a second later and then each `interval` seconds. A speed is
    the mean over the time that really passed between two readings. A reading that fails is
    logged once, and the next is tried in time. After more than three intervals without one the
    last speed is forgotten and those who ask get SpeedUnavailable, so that a report is skipped
    rather than an old speed repeated.
    """

    def __init__(
        self,
        clock: IReactorTime,
        interval: float,
        read: Callable[[], Mapping[str, Counters]],
    ) -> None:
        self._clock = clock
        self._interval = interval
        self._read = read
        self._waiting: list[Deferred[Speed]] = []
        self._call: IDelayedCall | None = None
        self._stopped = False
        self._logged: set[str] = set()
        self._origin = self._read_at = 0.0
        self._before: tuple[float, Mapping[str, Counters]] | None = None
        self._measured: tuple[float, Speed] | None = None
        self._problem: str | None = None

    @property
    def last(self) -> Speed | None:
        """The speed measured last, or None when there is none or it is no longer current."""
        if self._measured is None:
            return None
        measured_at, speed = self._measured
        is_current = self._clock.seconds() - measured_at <= self._longest_silence()
        return speed if is_current else None

    def speed(self) -> Deferred[Speed]:
        """
        Return the last speed at once, or the first one when it is measured.

        Fails with SpeedUnavailable when the counters cannot be read for a while, and when the
        service is stopped.
        """
        if self._stopped:
            return fail(SpeedUnavailable(_STOPPED))
        last = self.last
        if last is not None:
            return succeed(last)
        if self._problem is not None:
            return fail(SpeedUnavailable(self._problem))
        waiter: Deferred[Speed] = Deferred(self._forget_waiter)
        self._waiting.append(waiter)
        return waiter

    def startService(self) -> None:
        """Take the first reading and go on at intervals."""
        super().startService()  # type: ignore[no-untyped-call]
        self._stopped = False
        self._before = self._measured = self._problem = None
        self._read_at = self._clock.seconds()
        first = min(FIRST_SPEED_AFTER, self._interval)
        self._origin = self._read_at + first
        self._call = self._clock.callLater(first, self._tick)
        self._sample()

    def stopService(self) -> None:
        """Stop measuring; those who wait get SpeedUnavailable."""
        super().stopService()  # type: ignore[no-untyped-call]
        self._stopped = True
        if self._call is not None:
            self._call.cancel()
            self._call = None
        self._fail_waiting(_STOPPED)

    def _tick(self) -> None:
        # The next call stands before anything can raise or stop this service.
        self._call = self._clock.callLater(self._until_next(), self._tick)
        self._sample()

    def _until_next(self) -> float:
        """Keep to the grid of intervals, without two readings close together after a delay."""
        now = self._clock.seconds()
        number = floor((now - self._origin) / self._interval + 0.5) + 1
        return self._origin + number * self._interval - now

    def _sample(self) -> None:
        try:
            counters = self._read()
        except Exception as error:
            self._not_read(error)
        else:
            self._was_read(counters)

    def _was_read(self, counters: Mapping[str, Counters]) -> None:
        now = self._clock.seconds()
        if self._logged:
            log.info("the network counters can be read again")
            self._logged.clear()
        self._problem = None
        self._read_at = now
        before, self._before = self._before, (now, counters)
        if before is not None and now > before[0]:
            speed = speed_between(before[1], counters, now - before[0])
            self._measured = (now, speed)
            while self._waiting:
                self._waiting.pop(0).callback(speed)

    def _not_read(self, error: Exception) -> None:
        reason = str(error) or type(error).__name__
        problem = f"cannot read the network counters: {reason}"
        if problem not in self._logged:
            self._logged.add(problem)
            log.warn("{problem}", problem=problem)
        if self._clock.seconds() - self._read_at > self._longest_silence():
            self._before = self._measured = None
            self._problem = problem
            self._fail_waiting(problem)

    def _longest_silence(self) -> float:
        return STALE_INTERVALS * self._interval

    def _forget_waiter(self, waiter: Deferred[Speed]) -> None:
        self._waiting.remove(waiter)

    def _fail_waiting(self, reason: str) -> None:
        while self._waiting:
            self._waiting.pop(0).errback(SpeedUnavailable(reason))
