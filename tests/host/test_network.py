"""Tests of the network speed: reading, choosing and measuring, on an imitation of sysfs."""

from __future__ import annotations

import gc
import os
import shutil
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from mmwagent.host.network import (
    Counters,
    Interfaces,
    Speed,
    SpeedSampler,
    SpeedUnavailable,
    default_route_interfaces,
    parse_counters,
    speed_between,
)

HEADER = """\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop
"""
ROUTE_HEADER = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\n"
ZERO6 = "0" * 32


def line(name: str, received: int = 0, sent: int = 0, gap: str = " ") -> str:
    """Return a line of /proc/net/dev."""
    return f"{name:>6}:{gap}{received} 1 0 0 0 0 0 0 {sent} 2 0 0 0 0 0 0\n"


def events(case: SynchronousTestCase) -> list[LogEvent]:
    """Return the list into which all log events of the test go."""
    collected: list[LogEvent] = []
    observer = cast(ILogObserver, collected.append)
    globalLogPublisher.addObserver(observer)
    case.addCleanup(globalLogPublisher.removeObserver, observer)
    return collected


class ParseCountersTests(SynchronousTestCase):
    """The text of /proc/net/dev becomes counters."""

    def test_each_interface(self) -> None:
        """The first number of each side is the bytes; the headings are no interfaces."""
        text = HEADER + line("lo", 5, 5) + line("eth0", 2**40, 12)
        expected = {"lo": Counters(5, 5), "eth0": Counters(received=2**40, sent=12)}
        self.assertEqual(parse_counters(text), expected)

    def test_a_number_glued_to_the_name(self) -> None:
        """Old kernels leave no space after the colon once the number is large."""
        text = HEADER + line("eth0", 123, 4, gap="")
        self.assertEqual(parse_counters(text), {"eth0": Counters(123, 4)})

    def test_an_alias_keeps_its_colon(self) -> None:
        """The last colon ends the name, glued or not."""
        text = line("venet0:0", 7, 8) + line("eth0:12", 9, 10, gap="")
        expected = {"venet0:0": Counters(7, 8), "eth0:12": Counters(9, 10)}
        self.assertEqual(parse_counters(text), expected)

    def test_malformed_lines_are_left_out(self) -> None:
        """Short, empty and wordy lines hide nothing of the others."""
        text = "eth1: 1 2 3\n\n: \nno colon\neth2: a b\neth3: -1 0\n" + line("eth0", 1, 2)
        self.assertEqual(parse_counters(text), {"eth0": Counters(1, 2)})
        self.assertEqual(parse_counters(""), {})

    @given(st.text(alphabet="eth0: 19|\n\t-x", max_size=200))
    def test_any_text(self, text: str) -> None:
        """Nothing that may stand in the file raises."""
        for counters in parse_counters(text + "\n" + line("eth9", 3, 4)).values():
            self.assertGreaterEqual(min(counters.received, counters.sent), 0)


class DefaultRouteTests(SynchronousTestCase):
    """The default routes of both protocols name interfaces."""

    def test_ipv4(self) -> None:
        """Only a route to everything that is up and rejects nothing counts."""
        text = ROUTE_HEADER + (
            "eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
            "eth1\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"
            "tun0\t00000000\t00000000\t0001\t0\t0\t0\t00000080\t0\t0\t0\n"
            "eth2\t00000000\t010200C0\t0002\t0\t0\t0\t00000000\t0\t0\t0\n"
            "*\t00000000\t00000000\t0201\t0\t0\t0\t00000000\t0\t0\t0\n"
            "ppp0\t00000000\t00000000\t0001\t0\t0\t5\t00000000\t0\t0\t0\n"
        )
        self.assertEqual(default_route_interfaces(text, ""), {"eth0", "ppp0"})

    def test_ipv6(self) -> None:
        """The kernel's own unreachable default on lo is no route."""
        tail = "fd000000000000000000000000000001 00000400 00000002 00000000"
        text = (
            f"fe800000000000000000000000000000 40 {ZERO6} 00 {tail} 00000001     eth1\n"
            f"{ZERO6} 00 {ZERO6} 00 {tail} 00000003     eth0\n"
            f"{ZERO6} 00 {ZERO6} 00 {ZERO6} ffffffff 00000001 00000000 00200200       lo\n"
        )
        self.assertEqual(default_route_interfaces("", text), {"eth0"})

    def test_malformed_lines(self) -> None:
        """Lines cut short or with words for numbers are passed over."""
        bad = "eth0\t00000000\neth0 00000000 0 xyz 0 0 0 00000000\n"
        self.assertEqual(default_route_interfaces(bad, f"{ZERO6} 00 {ZERO6}\n"), set())


class SpeedBetweenTests(SynchronousTestCase):
    """Two readings make a speed."""

    def test_sums_the_interfaces(self) -> None:
        """Differences of all interfaces add up, per second, as whole numbers."""
        before = {"a": Counters(100, 10), "b": Counters(0, 0)}
        after = {"a": Counters(1000, 20), "b": Counters(101, 11)}
        self.assertEqual(speed_between(before, after, 2.0), Speed(upload=10, download=500))

    def test_an_interface_that_appears(self) -> None:
        """Its whole past is no speed."""
        after = {"a": Counters(10, 10), "new": Counters(10**12, 10**12)}
        self.assertEqual(speed_between({"a": Counters(0, 0)}, after, 1.0), Speed(10, 10))

    def test_an_interface_that_disappears(self) -> None:
        """It takes nothing from the others."""
        before = {"a": Counters(0, 0), "gone": Counters(10**12, 10**12)}
        self.assertEqual(speed_between(before, {"a": Counters(10, 10)}, 1.0), Speed(10, 10))

    def test_a_counter_that_fell(self) -> None:
        """A reset or overflowed interface is left out, both ways, the others are not."""
        before = {"a": Counters(2**32 - 1, 5), "b": Counters(0, 0), "c": Counters(5, 9)}
        after = {"a": Counters(100, 900), "b": Counters(7, 8), "c": Counters(900, 0)}
        self.assertEqual(speed_between(before, after, 1.0), Speed(upload=8, download=7))

    _counters = st.builds(Counters, st.integers(0, 2**64), st.integers(0, 2**64))
    _reading = st.dictionaries(st.sampled_from("abcd"), _counters)

    @given(_reading, _reading, st.floats(0.001, 10**6))
    def test_never_below_zero(
        self, before: Mapping[str, Counters], after: Mapping[str, Counters], seconds: float
    ) -> None:
        """Whatever happens to the interfaces, both speeds are whole numbers of at least 0."""
        speed = speed_between(before, after, seconds)
        self.assertIsInstance(speed.upload, int)
        self.assertIsInstance(speed.download, int)
        self.assertGreaterEqual(min(speed.upload, speed.download), 0)


class Machine:
    """The files of a machine's network in a directory."""

    def __init__(self, path: str) -> None:
        self.root = Path(path)
        self.sysfs = self.root / "net"
        self.sysfs.mkdir(parents=True)
        self.names: list[str] = []
        self.add("lo", type=772)

    def add(
        self,
        name: str,
        *,
        device: bool = False,
        master: str | None = None,
        below: int | None = None,
        type: int = 1,
    ) -> int:
        """Add an interface and return its index."""
        self.names.append(name)
        index = len(self.names)
        directory = self.sysfs / name
        directory.mkdir()
        (directory / "type").write_text(f"{type}\n")
        (directory / "ifindex").write_text(f"{index}\n")
        (directory / "iflink").write_text(f"{index if below is None else below}\n")
        if device:
            (directory / "device").symlink_to("../../../virtio2")
        if master is not None:
            (directory / "master").symlink_to(f"../{master}")
        return index

    def route(self, *names: str) -> None:
        """Make the default routes of IPv4."""
        lines = (f"{name}\t00000000\t0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n" for name in names)
        (self.root / "route").write_text(ROUTE_HEADER + "".join(lines))

    def route6(self, *names: str) -> None:
        """Make the default routes of IPv6."""
        lines = (f"{ZERO6} 00 {ZERO6} 00 {ZERO6} 0 0 0 00000003 {name}\n" for name in names)
        (self.root / "route6").write_text("".join(lines))

    def write_counters(self) -> None:
        """Give every interface counters."""
        text = HEADER + "".join(line(name, 10, 20) for name in self.names)
        (self.root / "dev").write_text(text)


class InterfacesCase(SynchronousTestCase):
    """A machine and what is chosen on it."""

    def setUp(self) -> None:
        """Make a machine with nothing but a loopback."""
        self.clock = Clock()
        self.machine = Machine(self.mktemp())

    def interfaces(
        self, include: tuple[str, ...] = (), exclude: tuple[str, ...] = ()
    ) -> Interfaces:
        """Return what reads this machine."""
        root = self.machine.root
        return Interfaces(
            self.clock,
            include=include,
            exclude=exclude,
            counters=str(root / "dev"),
            sysfs=str(self.machine.sysfs),
            ipv4_routes=str(root / "route"),
            ipv6_routes=str(root / "route6"),
        )

    def chosen(self, include: tuple[str, ...] = (), exclude: tuple[str, ...] = ()) -> list[str]:
        """Return the names that count."""
        self.machine.write_counters()
        return sorted(self.interfaces(include, exclude).read())


class HardwareTests(InterfacesCase):
    """On a machine with network cards these count, each byte once."""

    def test_cards_only(self) -> None:
        """What has a device counts, whatever it is called; what has none does not."""
        for name in ("eth0", "cali0", "wlan0", "docker1"):
            self.machine.add(name, device=True)
        for name in ("docker0", "veth1", "wg0", "tun0", "ppp0", "sit0", "gre0", "ifb0", "loop"):
            self.machine.add(name)
        self.machine.route("wg0")
        self.assertEqual(self.chosen(), ["cali0", "docker1", "eth0", "wlan0"])

    def test_the_counters_are_given(self) -> None:
        """A reading holds the counters of what counts and nothing else."""
        self.machine.add("eth0", device=True)
        self.machine.write_counters()
        self.assertEqual(self.interfaces().read(), {"eth0": Counters(10, 20)})

    def test_bond_and_bridge_count_once(self) -> None:
        """The slaves and ports count, the bond, the bridge and the VLAN on it do not."""
        bond = self.machine.add("bond0")
        self.machine.add("eth0", device=True, master="bond0")
        self.machine.add("eth1", device=True, master="bond0")
        self.machine.add("bond0.5", below=bond)
        self.machine.add("br0")
        self.machine.add("eth2", device=True, master="br0")
        self.assertEqual(self.chosen(), ["eth0", "eth1", "eth2"])

    def test_a_virtual_function_under_its_master(self) -> None:
        """Hyper-V shows the packets of the virtual function on the synthetic card as well."""
        self.machine.add("eth0", device=True)
        self.machine.add("enP1", device=True, master="eth0")
        self.assertEqual(self.chosen(), ["eth0"])

    def test_a_port_on_another_card(self) -> None:
        """A switch port that sends through a card that counts does not count again."""
        card = self.machine.add("eth0", device=True)
        self.machine.add("lan1", device=True, below=card)
        self.machine.add("eth1", device=True, below=99)
        self.assertEqual(self.chosen(), ["eth0", "eth1"])

    def test_a_loopback_with_a_device(self) -> None:
        """A loopback never counts, known by its type or by its name."""
        self.machine.add("eth0", device=True)
        self.machine.add("odd", device=True, type=772)
        (self.machine.sysfs / "lo" / "device").symlink_to("x")
        (self.machine.sysfs / "lo" / "type").unlink()
        self.assertEqual(self.chosen(), ["eth0"])


class NoHardwareTests(InterfacesCase):
    """In containers the default route tells."""

    def test_the_default_route(self) -> None:
        """The interfaces of the default routes of both protocols count."""
        for name in ("eth0", "eth1", "docker0", "he6"):
            self.machine.add(name, below=500 if name == "eth0" else None)
        self.machine.route("eth0")
        self.machine.route6("he6")
        self.assertEqual(self.chosen(), ["eth0", "he6"])

    def test_without_sysfs(self) -> None:
        """A hidden sysfs leaves the routes to tell."""
        for name in ("venet0", "venet1", "tun0"):
            self.machine.add(name)
        self.machine.route("venet0", "venet1")
        shutil.rmtree(self.machine.sysfs)
        self.assertEqual(self.chosen(), ["venet0", "venet1"])

    def test_routes_through_an_interface_and_what_stands_on_it(self) -> None:
        """Two default routes over a VLAN and its parent count the parent."""
        below = self.machine.add("eth0")
        self.machine.add("eth0.7", below=below)
        self.machine.route("eth0", "eth0.7")
        self.assertEqual(self.chosen(), ["eth0"])

    def test_no_route_either(self) -> None:
        """Without a default route all that stand on no other and are no one's port count."""
        below = self.machine.add("eth0", below=77)
        self.machine.add("eth0.7", below=below)
        self.machine.add("br0")
        self.machine.add("port", master="br0")
        self.machine.add("sit0", below=0)
        self.assertEqual(self.chosen(), ["br0", "eth0", "sit0"])

    def test_a_route_over_an_interface_without_counters(self) -> None:
        """A route that names something unknown falls through to the last resort."""
        self.machine.add("eth0")
        self.machine.route("gone0")
        self.assertEqual(self.chosen(), ["eth0"])

    def test_an_alias_is_its_base(self) -> None:
        """An alias beside its base counts nothing; alone it counts."""
        self.machine.add("venet0")
        self.machine.names += ["venet0:0", "odd:1"]
        self.assertEqual(self.chosen(), ["odd:1", "venet0"])


class PatternTests(InterfacesCase):
    """The patterns of the settings."""

    def setUp(self) -> None:
        """Add two cards and a tunnel."""
        super().setUp()
        self.machine.add("eth0", device=True)
        self.machine.add("eth1", device=True)
        self.machine.add("wg0")

    def test_include(self) -> None:
        """Exactly the matching ones count, hardware or not."""
        self.assertEqual(self.chosen(include=("wg*", "eth1")), ["eth1", "wg0"])

    def test_exclude(self) -> None:
        """Of those that would count the matching ones do not."""
        self.assertEqual(self.chosen(exclude=("*1",)), ["eth0"])

    def test_exclude_wins(self) -> None:
        """What both match does not count, and a loopback never does."""
        self.assertEqual(self.chosen(include=("*",), exclude=("eth?",)), ["wg0"])

    def test_excluding_all_cards(self) -> None:
        """Nothing takes the place of what was excluded."""
        self.machine.route("wg0")
        self.assertEqual(self.chosen(exclude=("eth*",)), [])

    def test_include_that_matches_nothing(self) -> None:
        """Then nothing counts."""
        self.assertEqual(self.chosen(include=("ETH0",)), [])


class RememberedChoiceTests(InterfacesCase):
    """What counts is decided when the interfaces change, and each minute."""

    def setUp(self) -> None:
        """Add a card and read once."""
        super().setUp()
        self.machine.add("eth0", device=True)
        self.machine.write_counters()
        self.reading = self.interfaces()
        self.names()

    def names(self) -> list[str]:
        """Return the names of a reading by the same reader."""
        return sorted(self.reading.read())

    def test_not_asked_each_time(self) -> None:
        """Within a minute nothing of sysfs but the directory's listing is read."""
        (self.machine.sysfs / "eth0" / "device").unlink()
        self.clock.advance(59)
        self.assertEqual(self.names(), ["eth0"])

    def test_asked_after_a_minute(self) -> None:
        """A change of routes or masters is seen within a minute."""
        self.machine.add("eth9")
        self.machine.write_counters()
        self.names()
        (self.machine.sysfs / "eth0" / "device").unlink()
        self.machine.route("eth9")
        self.clock.advance(59.9)
        self.assertEqual(self.names(), ["eth0"])
        self.clock.advance(0.1)
        self.assertEqual(self.names(), ["eth9"])

    def test_a_new_interface(self) -> None:
        """One that appears is judged at once, one that goes is gone."""
        self.machine.add("eth1", device=True)
        self.machine.write_counters()
        self.assertEqual(self.names(), ["eth0", "eth1"])
        self.machine.names.remove("eth0")
        self.machine.write_counters()
        self.assertEqual(self.names(), ["eth1"])

    def test_another_one_under_the_same_name(self) -> None:
        """An interface made again under its name is judged anew."""
        self.machine.add("eth1", device=True)
        self.machine.add("other")
        self.machine.names.remove("other")
        self.machine.write_counters()
        self.assertEqual(self.names(), ["eth0", "eth1"])
        directory = self.machine.sysfs / "eth0"
        directory.rename(self.machine.root / "old")
        (self.machine.sysfs / "other").rename(directory)
        self.assertEqual(self.names(), ["eth1"])

    def test_a_change_is_logged_once(self) -> None:
        """The log says which interfaces count, and again only when this changes."""
        collected = events(self)
        reading = self.interfaces()
        for _ in range(3):
            reading.read()
            self.clock.advance(61)
        self.machine.add("veth5")
        self.machine.write_counters()
        reading.read()
        self.assertEqual([event["interfaces"] for event in collected], [["eth0"]])


class UnreadableTests(InterfacesCase):
    """Counters that cannot be read are no counters of zero."""

    def test_no_file(self) -> None:
        """A missing file is the system's error, with the path in it."""
        error = self.assertRaises(OSError, self.interfaces().read)
        self.assertIn("dev", str(error))

    def test_no_interface(self) -> None:
        """A file without any interface is an error too."""
        (self.machine.root / "dev").write_text(HEADER)
        error = self.assertRaises(ValueError, self.interfaces().read)
        self.assertEqual(str(error), f"{self.machine.root}/dev names no interface")

    def test_the_real_one(self) -> None:
        """The real files of this machine can be read."""
        for name, counters in Interfaces(Clock()).read().items():
            self.assertTrue(os.path.exists(f"/sys/class/net/{name}"))
            self.assertGreaterEqual(counters.received, 0)


class SamplerCase(SynchronousTestCase):
    """A sampler with an interval of 3 s on counters made up here."""

    def setUp(self) -> None:
        """Make a sampler that is not started."""
        self.clock = Clock()
        self.clock.advance(1000.25)
        self.received = 0
        self.readings: list[float] = []
        self.error: Exception | None = None
        self.step_back = 0.0
        self.sampler = SpeedSampler(self.clock, 3.0, self.read)
        self.events = events(self)

    def read(self) -> Mapping[str, Counters]:
        """Return counters, or raise the error in force; the clock may step back meanwhile."""
        self.readings.append(self.clock.seconds() - 1000.25)
        self.clock.rightNow -= self.step_back
        if self.error is not None:
            raise self.error
        return {"eth0": Counters(self.received, self.received // 10)}

    def start(self) -> None:
        """Start the sampler, to be stopped after the test."""
        self.sampler.startService()
        self.addCleanup(self.stop)

    def stop(self) -> None:
        """Stop the sampler if the test did not."""
        if self.sampler.running:
            self.sampler.stopService()

    def pass_time(self, seconds: float, bytes_per_second: int = 0, step: float = 0.25) -> None:
        """Let time pass in small steps while bytes arrive."""
        for _ in range(int(seconds / step)):
            self.received += int(bytes_per_second * step)
            self.clock.advance(step)

    def lines(self) -> list[str]:
        """Return the levels of the events logged so far."""
        return [event["log_level"].name for event in self.events]


class SamplingTests(SamplerCase):
    """Readings are taken in time and make speeds."""

    def test_when_readings_are_taken(self) -> None:
        """One at start, one after a second, then one each interval."""
        self.start()
        self.assertEqual(self.readings, [0.0])
        self.pass_time(11)
        self.assertEqual(self.readings, [0.0, 1.0, 4.0, 7.0, 10.0])

    def test_a_short_interval(self) -> None:
        """An interval below a second holds from the start."""
        self.sampler = SpeedSampler(self.clock, 0.5, self.read)
        self.start()
        self.pass_time(1.5)
        self.assertEqual(self.readings, [0.0, 0.5, 1.0, 1.5])

    def test_the_speed(self) -> None:
        """The last speed is the mean since the reading before, up and down apart."""
        self.start()
        self.assertIsNone(self.sampler.last)
        self.pass_time(1, bytes_per_second=4000)
        self.assertEqual(self.sampler.last, Speed(upload=400, download=4000))
        self.pass_time(1, bytes_per_second=4000)
        self.pass_time(1, bytes_per_second=8000)
        self.assertEqual(self.sampler.last, Speed(upload=400, download=4000))
        self.pass_time(1, bytes_per_second=0)
        self.assertEqual(self.sampler.last, Speed(upload=400, download=4000))
        self.pass_time(3, bytes_per_second=800)
        self.assertEqual(self.sampler.last, Speed(upload=80, download=800))

    def test_readers_do_not_disturb(self) -> None:
        """However often somebody asks, the counters are read by the clock alone."""
        self.start()
        self.pass_time(1, bytes_per_second=400)
        for _ in range(10):
            speed = self.successResultOf(self.sampler.speed())
            self.assertEqual(speed, Speed(upload=40, download=400))
        self.assertEqual(self.readings, [0.0, 1.0])

    def test_a_late_loop(self) -> None:
        """After a pause the rate is over the time that really passed, on the old grid again."""
        self.start()
        self.pass_time(1)
        self.received += 100_000
        self.clock.advance(100)
        self.assertEqual(self.sampler.last, Speed(upload=100, download=1000))
        self.pass_time(6)
        self.assertEqual(self.readings, [0.0, 1.0, 101.0, 103.0, 106.0])

    def test_no_two_readings_close_together(self) -> None:
        """A reading that was late by more than half an interval replaces the next."""
        self.start()
        self.pass_time(1)
        self.clock.advance(5.75)
        self.pass_time(3.25)
        self.assertEqual(self.readings, [0.0, 1.0, 6.75, 10.0])

    def test_a_clock_that_steps_back(self) -> None:
        """No time or less than none between readings makes no speed and no error."""
        self.start()
        self.pass_time(0.75, bytes_per_second=400)
        for seconds, self.step_back in ((0.25, 1.0), (4.0, 5.0)):
            self.clock.advance(seconds)
            self.assertIsNone(self.sampler.last)
        self.step_back = 0
        self.pass_time(9, bytes_per_second=400)
        self.assertEqual(self.sampler.last, Speed(upload=40, download=400))
        self.assertEqual(self.lines(), [])


class WaitingTests(SamplerCase):
    """Who asks before there is a speed waits for it."""

    def test_the_first_speed(self) -> None:
        """All who wait get the first speed, also those who asked before the start."""
        early = self.sampler.speed()
        self.start()
        late = self.sampler.speed()
        self.assertNoResult(late)
        self.pass_time(1, bytes_per_second=400)
        for waiter in (early, late):
            self.assertEqual(self.successResultOf(waiter), Speed(upload=40, download=400))

    def test_a_cancelled_one_is_forgotten(self) -> None:
        """Who no longer waits is not called, the others are."""
        self.start()
        waiters = [self.sampler.speed() for _ in range(3)]
        waiters[1].cancel()
        self.failureResultOf(waiters[1], CancelledError)
        self.pass_time(1)
        self.successResultOf(waiters[0])
        self.successResultOf(waiters[2])

    def test_a_cancelled_one_takes_no_memory(self) -> None:
        """The sampler keeps nothing of it, even if there is never a speed."""
        self.start()
        waiter = self.sampler.speed()
        alive = weakref.ref(waiter)
        waiter.cancel()
        self.failureResultOf(waiter, CancelledError)
        del waiter
        gc.collect()
        self.assertIsNone(alive())

    def test_cancelled_by_another(self) -> None:
        """A waiter that cancels the next when it is called breaks nothing."""
        self.start()
        first, second = self.sampler.speed(), self.sampler.speed()
        first.addCallback(lambda _: second.cancel())
        self.pass_time(1)
        self.failureResultOf(second, CancelledError)
        self.pass_time(3)
        self.assertEqual(self.readings, [0.0, 1.0, 4.0])

    def test_one_that_raises(self) -> None:
        """An error in a waiter's callback is its own."""
        self.start()
        waiter = self.sampler.speed()
        waiter.addCallback(lambda _: 1 // 0)
        self.pass_time(1)
        self.failureResultOf(waiter, ZeroDivisionError)
        self.assertIsNotNone(self.sampler.last)

    def test_stopping(self) -> None:
        """On stop the waiting ones fail with a clear error, and so do later ones."""
        self.start()
        waiter = self.sampler.speed()
        self.sampler.stopService()
        for failed in (waiter, self.sampler.speed()):
            error = self.failureResultOf(failed, SpeedUnavailable).value
            self.assertEqual(str(error), "the speed is no longer measured: the agent stops")
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stopped_by_a_waiter(self) -> None:
        """Stopping from within a callback leaves nothing behind."""
        self.start()
        self.sampler.speed().addCallback(lambda _: self.sampler.stopService())
        self.pass_time(1)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_starting_again(self) -> None:
        """A stopped sampler starts afresh: what passed between is not counted."""
        self.start()
        self.pass_time(1, bytes_per_second=400)
        self.sampler.stopService()
        self.pass_time(2, bytes_per_second=10**9)
        self.start()
        self.assertIsNone(self.sampler.last)
        waiter = self.sampler.speed()
        self.pass_time(1, bytes_per_second=800)
        self.assertEqual(self.successResultOf(waiter), Speed(upload=80, download=800))


class FailingTests(SamplerCase):
    """Counters that cannot be read stop nothing and are not told as a speed."""

    def fail_with(self, error: Exception | None) -> None:
        """Make the readings raise `error` from now on."""
        self.error = error

    def test_one_failure(self) -> None:
        """The last speed stays, and the next one is the mean over both intervals."""
        self.start()
        self.pass_time(1, bytes_per_second=400)
        self.fail_with(OSError("gone"))
        self.pass_time(3, bytes_per_second=600)
        self.assertEqual(self.sampler.last, Speed(upload=40, download=400))
        self.fail_with(None)
        self.pass_time(3, bytes_per_second=200)
        self.assertEqual(self.sampler.last, Speed(upload=40, download=400))
        self.assertEqual(self.readings, [0.0, 1.0, 4.0, 7.0])

    def test_a_failure_at_the_start(self) -> None:
        """The first speed comes once two readings have succeeded."""
        self.fail_with(RuntimeError("not yet"))
        self.start()
        waiter = self.sampler.speed()
        self.pass_time(1)
        self.fail_with(None)
        self.pass_time(3, bytes_per_second=400)
        self.assertNoResult(waiter)
        self.pass_time(3, bytes_per_second=400)
        self.assertEqual(self.successResultOf(waiter), Speed(upload=40, download=400))

    def test_an_old_speed_is_not_told(self) -> None:
        """After more than three intervals there is no speed, and the error says why."""
        self.start()
        self.pass_time(1, bytes_per_second=400)
        self.fail_with(OSError("gone"))
        self.pass_time(9)
        self.assertEqual(self.successResultOf(self.sampler.speed()).download, 400)
        self.pass_time(0.25)
        self.assertIsNone(self.sampler.last)
        waiter = self.sampler.speed()
        self.assertNoResult(waiter)
        self.pass_time(2.75)
        for failed in (waiter, self.sampler.speed()):
            error = self.failureResultOf(failed, SpeedUnavailable).value
            self.assertEqual(str(error), "cannot read the network counters: gone")

    def test_waiting_at_the_start_ends(self) -> None:
        """If the counters cannot be read from the start, nobody waits for ever."""
        self.fail_with(OSError("gone"))
        self.start()
        waiter = self.sampler.speed()
        self.pass_time(9.75)
        self.assertNoResult(waiter)
        self.pass_time(0.25)
        self.failureResultOf(waiter, SpeedUnavailable)

    def test_recovery(self) -> None:
        """After a long failure measuring starts afresh and who asks waits again."""
        self.start()
        self.fail_with(OSError("gone"))
        self.pass_time(40, bytes_per_second=10**6)
        self.fail_with(None)
        self.pass_time(3)
        waiter: Deferred[Speed] = self.sampler.speed()
        self.assertNoResult(waiter)
        self.pass_time(3, bytes_per_second=400)
        self.assertEqual(self.successResultOf(waiter), Speed(upload=40, download=400))

    def test_each_problem_is_logged_once(self) -> None:
        """Two problems by turns make two lines, the recovery a third, and then anew."""
        self.start()
        for number in range(6):
            self.fail_with(OSError("gone") if number % 2 else ValueError())
            self.pass_time(3)
        problems = [event["problem"] for event in self.events]
        self.assertEqual(
            problems,
            [f"cannot read the network counters: {reason}" for reason in ("ValueError", "gone")],
        )
        self.fail_with(None)
        self.pass_time(9)
        self.assertEqual(self.lines(), ["warn", "warn", "info"])
        self.fail_with(OSError("gone"))
        self.pass_time(9)
        self.assertEqual(self.lines(), ["warn", "warn", "info", "warn"])
