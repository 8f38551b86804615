"""The pure parts of `benchmarks/`: sums, tables, the synthesised body, what is read as what."""

from __future__ import annotations

import contextlib
import io
import json
import os
import time

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from benchmarks import proc
from benchmarks.__main__ import options_from
from benchmarks.bodies import variables
from benchmarks.fake_xray import answer
from benchmarks.figures import (
    Import,
    Table,
    by_package,
    imports,
    median,
    megabytes,
    milliseconds,
    percentile,
    since_latest,
    span,
    three_digits,
)
from benchmarks.load import NoAnswer, is_whole, request
from benchmarks.options import Options
from mmwagent.xray.traffic import snapshot_of

SOME = st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1)


class MedianTests(SynchronousTestCase):
    """The middle of some values."""

    def test_of_an_odd_number(self) -> None:
        """It is the one in the middle, whatever the order."""
        self.assertEqual(median([9, 1, 5]), 5)

    def test_of_an_even_number(self) -> None:
        """It is the mean of the two in the middle."""
        self.assertEqual(median([4, 1, 100, 2]), 3)

    def test_of_nothing(self) -> None:
        """There is none, and that is said."""
        self.assertRaisesRegex(ValueError, "median of nothing", median, [])


class PercentileTests(SynchronousTestCase):
    """The nearest-rank percentile."""

    def test_of_a_hundred(self) -> None:
        """Of 1 to 100 the p-th percentile is p, in any order."""
        values = list(range(100, 0, -1))
        self.assertEqual([percentile(values, p) for p in (1, 50, 99, 100)], [1, 50, 99, 100])

    def test_of_few(self) -> None:
        """High percentiles of few values are the largest, low ones the smallest."""
        self.assertEqual([percentile([3, 1, 2], p) for p in (1, 33, 34, 99)], [1, 1, 2, 3])

    @given(values=SOME, percent=st.floats(min_value=0.1, max_value=100))
    def test_enough_lie_below(self, values: list[float], percent: float) -> None:
        """It is one of the values, and at least so many per cent do not exceed it."""
        found = percentile(values, percent)
        below = sum(value <= found for value in values)
        self.assertIn(found, values)
        self.assertGreaterEqual(below * 100 + 1e-6, percent * len(values))

    def test_what_there_is_none_of(self) -> None:
        """No values, and per cents out of range, are refused."""
        self.assertRaisesRegex(ValueError, "percentile of nothing", percentile, [], 50)
        for percent in (0, -1, 100.5):
            self.assertRaisesRegex(ValueError, str(percent), percentile, [1], percent)


class SinceLatestTests(SynchronousTestCase):
    """What began and what ended, put together."""

    def test_pairs(self) -> None:
        """Each end belongs to the latest start before it; starts without an end do not matter."""
        self.assertEqual(since_latest([1, 4, 10, 20], [3, 7, 12]), [2, 3, 2])
        self.assertEqual(since_latest([1, 2, 3, 20], [5]), [2])

    def test_end_without_start(self) -> None:
        """An end before any start is left out."""
        self.assertEqual(since_latest([5], [1, 5, 6]), [1])


class WordsTests(SynchronousTestCase):
    """Numbers as text."""

    def test_three_digits(self) -> None:
        """Three digits count, but none before the point is lost."""
        shown = [three_digits(x) for x in (0, 0.012345, 1.2345, 12.345, 123.45, 12345.6, -1.2345)]
        self.assertEqual(shown, ["0", "0.0123", "1.23", "12.3", "123", "12346", "-1.23"])

    def test_units(self) -> None:
        """Seconds are shown as milliseconds, bytes as MB of 2**20."""
        self.assertEqual(milliseconds(0.0284), "28.4")
        self.assertEqual(megabytes(65 * 2**20 + 2**19), "65.5")

    def test_span(self) -> None:
        """Several values show their median and range, one itself."""
        self.assertEqual(span([3, 1, 2]), "2.00 (1.00 to 3.00)")
        self.assertEqual(span([0.001], milliseconds), "1.00")


class TableTests(SynchronousTestCase):
    """Tables of text."""

    def test_layout(self) -> None:
        """The first column is on the left, figures are on the right, notes come last."""
        table = Table("Title", ["users", "ms"], notes=["a note"])
        table.row("100", "1.5")
        table.row("10,000", "28")
        lines = ["Title", "users    ms", "------  ---", "100     1.5", "10,000   28", "a note"]
        self.assertEqual(str(table).splitlines(), lines)

    def test_missing_cell(self) -> None:
        """A row with a cell too few is refused and not added."""
        table = Table("Title", ["users", "ms"])
        self.assertRaisesRegex(ValueError, "1 cells for 2 columns", table.row, "100")
        self.assertEqual(table.rows, [])


IMPORTTIME = """\
import time: self [us] | cumulative | imported package
import time:       100 |        100 |     twisted._version
a warning that somebody printed | with bars | in it
import time:       400 |        500 |   twisted
import time:      1500 |       2000 | mmwagent.agent
"""


class ImportTimeTests(SynchronousTestCase):
    """What `python -X importtime` says."""

    def test_reading(self) -> None:
        """Each module has its own and its total time in seconds; other lines are passed over."""
        self.assertEqual(
            imports(IMPORTTIME),
            [
                Import("twisted._version", 0.0001, 0.0001),
                Import("twisted", 0.0004, 0.0005),
                Import("mmwagent.agent", 0.0015, 0.002),
            ],
        )

    def test_by_package(self) -> None:
        """Own times are added up by top-level package, the longest first."""
        sums = by_package(imports(IMPORTTIME))
        self.assertEqual(list(sums), ["mmwagent", "twisted"])
        self.assertAlmostEqual(sums["twisted"], 0.0005)


class BodyTests(SynchronousTestCase):
    """The synthesised body of /debug/vars."""

    def test_is_what_xray_gives(self) -> None:
        """It holds Xray's four variables, and as many users as wanted, all with traffic."""
        body = json.loads(b"".join(variables(3)))
        self.assertEqual(list(body), ["cmdline", "memstats", "observatory", "stats"])
        self.assertEqual(len(body["memstats"]["PauseNs"]), 256)
        stats = snapshot_of(body["stats"]).stats
        self.assertEqual(len(stats["user"]), 3)
        self.assertEqual(len({counters["uplink"] for counters in stats["user"].values()}), 3)

    def test_no_users(self) -> None:
        """Without users there are inbounds and outbounds still."""
        stats = json.loads(b"".join(variables(0)))["stats"]
        self.assertEqual([len(stats[kind]) for kind in ("inbound", "outbound", "user")], [3, 2, 0])

    def test_one_variable_a_line(self) -> None:
        """It is laid out as Go's expvar does it: a line for each variable."""
        lines = b"".join(variables(2)).decode().splitlines()
        self.assertEqual((lines[0], lines[-1], len(lines)), ("{", "}", 6))
        self.assertTrue(lines[4].startswith('"stats": {"inbound":{"in-0":{"downlink":'))

    def test_answer_is_chunked(self) -> None:
        """The answer's chunks, put together by their lengths, are the body."""
        rest = answer(5).partition(b"\r\n\r\n")[2]
        body = b""
        while True:
            size, _, rest = rest.partition(b"\r\n")
            if size == b"0":
                break
            body += rest[: int(size, 16)]
            rest = rest[int(size, 16) + 2 :]
        self.assertEqual((body, rest), (b"".join(variables(5)), b"\r\n"))


class LoadTests(SynchronousTestCase):
    """What the load generator sends and takes for an answer."""

    ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nDate: now\r\n\r\nbody"

    def test_request(self) -> None:
        """It asks with the master's User-Agent and the token, and without a body."""
        lines = request("/health").decode().split("\r\n")
        self.assertEqual(lines[0], "GET /health HTTP/1.1")
        self.assertIn("User-Agent: miaomiaowux/0.1", lines)
        self.assertTrue(any(line.startswith("Authorization: Bearer ") for line in lines))
        self.assertEqual(lines[-2:], ["", ""])

    def test_whole(self) -> None:
        """An answer is whole with its last byte, not before."""
        for cut in range(len(self.ANSWER)):
            self.assertFalse(is_whole(self.ANSWER[:cut]), cut)
        self.assertTrue(is_whole(self.ANSWER))

    def test_length_last(self) -> None:
        """The length may be the last header."""
        self.assertTrue(is_whole(b"HTTP/1.1 200 OK\r\ncontent-length:0\r\n\r\n"))

    def test_refusals(self) -> None:
        """Another status, or no length, is no answer that may be counted."""
        for head in (b"HTTP/1.1 503 No\r\nContent-Length: 0", b"HTTP/1.1 200 OK\r\nDate: now"):
            self.assertRaisesRegex(NoAnswer, "answered", is_whole, head + b"\r\n\r\n")


class ProcTests(SynchronousTestCase):
    """What the kernel tells, asked about ourselves."""

    def test_cpu(self) -> None:
        """The CPU clock of a process is the one it reads itself."""
        before = time.process_time()
        told = proc.cpu_seconds(os.getpid())
        self.assertTrue(before <= told <= time.process_time())

    def test_memory(self) -> None:
        """Private memory is part of the resident, which the peak is not below."""
        memory = proc.memory(os.getpid())
        self.assertTrue(2**20 < memory.private <= memory.resident)
        self.assertGreater(proc.peak_resident(os.getpid()), 2**20)
        self.assertGreaterEqual(proc.threads(os.getpid()), 1)


class CommandLineTests(SynchronousTestCase):
    """`python -m benchmarks ...`"""

    def refused(self, *arguments: str) -> str:
        """Return what is said about arguments that are refused."""
        with contextlib.redirect_stderr(io.StringIO()) as said:
            refusal = self.assertRaises(SystemExit, options_from, arguments)
        self.assertEqual(refusal.code, 2)
        return said.getvalue()

    def test_all(self) -> None:
        """Without arguments all is measured, the idle part for five minutes."""
        everything = ["start", "report", "requests", "idle", "faults", "history"]
        self.assertEqual(options_from([]), (everything, Options(5.0, False)))

    def test_some(self) -> None:
        """Parts that are named are measured once each, in their usual order."""
        wanted = options_from(["idle", "start", "idle", "--minutes", "0.5", "--quick"])
        self.assertEqual(wanted, (["start", "idle"], Options(0.5, True)))
        self.assertEqual(options_from(["history", "--seed", "7"])[1].seed, 7)

    def test_refusals(self) -> None:
        """An unknown part, and a time that is none, are refused with the reason."""
        self.assertIn("no part is called 'strat': there are start,", self.refused("strat"))
        for minutes in ("0", "-1", "nan", "1441"):
            self.assertIn("above 0 and at most 1440", self.refused("--minutes", minutes))
