"""
The Autobahn test suite against our WebSocket: `python -m benchmarks.autobahn_suite`.

Its fuzzing server sends good and broken frames of every kind; our factory and protocol, with the
options of Dialer, echo what is whole and must refuse the rest. The suite needs Python 2.7, and is
installed into .peers/autobahntestsuite. Exit status: 1 when a case failed, 3 when it cannot run.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from attrs import define, field, frozen
from autobahn.exception import Disconnected
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.error import ReactorNotRunning
from twisted.logger import ILogObserver, globalLogPublisher
from twisted.python.failure import Failure
from zope.interface import implementer

from benchmarks.figures import Table, three_digits
from benchmarks.processes import ROOT, CannotMeasure, Child, Room
from mmwagent.uplink import failures
from mmwagent.uplink.failures import LinkFailure
from mmwagent.uplink.messages import Incoming
from mmwagent.uplink.websocket import MAX_MESSAGE_BYTES, Dialer, Session, Timing

PLACE = ROOT / ".peers" / "autobahntestsuite"
AGENT = "mmw-agent"
CANNOT_RUN = 3
LONGEST_CASE = 600.0  # seconds; the suite itself gives up after 10 to 480, and twice after 1000
PASSED = frozenset({"OK", "NON-STRICT", "INFORMATIONAL"})
COMPRESSION = frozenset({"12", "13"})  # categories of what we do not offer (RFC 7692)
SIZES = {"9.1.5": 8 * 2**20, "9.1.6": 16 * 2**20, "9.2.5": 8 * 2**20, "9.2.6": 16 * 2**20}
TOO_BIG = frozenset(case for case, size in SIZES.items() if size > MAX_MESSAGE_BYTES)
CATEGORIES = {
    "1": "framing",
    "2": "pings and pongs",
    "3": "reserved bits",
    "4": "opcodes",
    "5": "fragmentation",
    "6": "UTF-8",
    "7": "closing",
    "9": "limits, performance",
    "10": "auto-fragmentation",
    "12": "compression",
    "13": "compression, options",
}

# The last versions that run on Python 2.7, where the suite does not ask for older ones.
REQUIREMENTS = """\
autobahntestsuite==0.8.2
argparse==1.4.0
attrs==21.4.0
autobahn==0.10.9
Automat==22.10.0
cffi==1.15.1
constantly==15.1.0
cryptography==3.3.2
enum34==1.1.10
hyperlink==21.0.0
idna==2.10
incremental==22.10.0
ipaddress==1.0.23
Jinja2==2.11.3
klein==17.10.0
linecache2==1.0.0
MarkupSafe==1.1.1
pyasn1==0.5.1
pyasn1-modules==0.3.0
pycparser==2.21
PyHamcrest==1.10.1
pyOpenSSL==21.0.0
service-identity==21.1.0
six==1.17.0
traceback2==1.4.0
Twisted==20.3.0
txaio==2.1.0
typing==3.10.0.0
unittest2==1.1.0
Werkzeug==1.0.1
zope.interface==5.5.2
"""
VIRTUALENV = "virtualenv<20.22"  # the last that makes environments of Python 2.7

# Its own command listens on all addresses and on a port told beforehand, and outlives us.
SERVER = """\
import json, socket, sys
from twisted.internet import protocol, reactor, stdio
from autobahntestsuite import fuzzing

spec = json.load(open(sys.argv[1]))
listener = socket.socket()
listener.bind(("127.0.0.1", 0))
listener.listen(5)
listener.setblocking(0)
spec["url"] = "ws://127.0.0.1:%d" % listener.getsockname()[1]
known = [".".join(case.__name__[4:].split("_")) for case in fuzzing.Cases]
wanted = tuple(prefix + "." for prefix in spec["cases"])
spec["cases"] = [case for case in known if (case + ".").startswith(wanted)]

def listen(factory, context):
    reactor.adoptStreamPort(listener.fileno(), socket.AF_INET, factory)
    print("serving " + json.dumps({"url": spec["url"], "cases": factory.specCases}))

class UntilTheEnd(protocol.Protocol):
    def connectionLost(self, reason):
        if reactor.running:
            reactor.stop()

fuzzing.listenWS = listen
fuzzing.startServer(spec, 0)
stdio.StandardIO(UntilTheEnd())
reactor.run()
"""


class CannotRun(Exception):
    """The suite cannot be had or run here; str() says why."""


# The suite, in an environment of Python 2.7.


def python2(path: str | None, pyenv: Path) -> str:
    """Return a Python 2.7 that runs: python2.7 on `path`, or one of pyenv. Raises CannotRun."""
    found = shutil.which("python2.7", path=path)
    installed = sorted(pyenv.glob("versions/2.7*/bin/python2.7"))
    for candidate in [*([found] if found else []), *map(str, installed)]:
        # What pyenv puts on the path may be there and yet not run.
        said = subprocess.run(
            [candidate, "-Ec", "import sys; print(sys.version_info[:2] == (2, 7))"],
            capture_output=True,
            text=True,
        )
        if said.stdout.strip() == "True":
            return candidate
    raise CannotRun(
        f"the suite needs Python 2.7: there is no python2.7 on PATH that runs, nor in {pyenv}"
    )


def installed(place: Path) -> Path:
    """Return the Python of the suite's environment in `place`, made where it is not there yet."""
    python, stamp = place / "env" / "bin" / "python", place / "installed"
    if stamp.exists() and stamp.read_text() == REQUIREMENTS and python.exists():
        return python
    base = python2(None, Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")))
    print(f"installing the test suite for {base} into {place}", flush=True)
    stamp.unlink(missing_ok=True)
    tools, requirements = place / "virtualenv", place / "requirements.txt"
    for old in (tools, place / "env"):
        shutil.rmtree(old, ignore_errors=True)
    requirements.write_text(REQUIREMENTS)
    _run("install virtualenv", *_pip(sys.executable), "--target", str(tools), VIRTUALENV)
    _run(
        "make the environment",
        *(sys.executable, "-m", "virtualenv", "--quiet", "--app-data", str(place / "data")),
        *("--python", base, str(place / "env")),
        PYTHONPATH=str(tools),
    )
    _run("install the test suite", *_pip(str(python)), "--requirement", str(requirements))
    stamp.write_text(REQUIREMENTS)
    return python


def _pip(python: str) -> list[str]:
    return [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]


def _run(what: str, *command: str, **variables: str) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    ran = subprocess.run(
        command,
        env=environment | variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    if ran.returncode:
        last = "\n  ".join(ran.stdout.splitlines()[-12:])
        raise CannotRun(f"could not {what} (status {ran.returncode}):\n  {last}")


@contextmanager
def alone(place: Path) -> Iterator[None]:
    """Hold the lock of `place`: two at once would write one report. The kernel frees it."""
    place.mkdir(parents=True, exist_ok=True)
    with open(place / "lock", "w", encoding="ascii") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CannotRun("the suite is being run here already") from None
        yield


# Our side of it.


class Echo(Session):
    """A Session for which there is no authentication, and that sends each message back."""

    def opened(self) -> None:
        """Be live at once."""
        self._no_deadline()
        self.live = True

    def received(self, data: bytes) -> None:
        """Send `data` back as what it came: text or binary."""
        protocol: Any = self._protocol
        try:
            if protocol is not None:
                protocol.sendMessage(data, protocol.message_is_binary)
        except Disconnected:  # the peer said goodbye before we answered
            pass


@define
class Client:
    """Opens WebSockets to the fuzzing server, one after the other."""

    reactor: Any
    url: str
    reasons: dict[str, str] = field(factory=dict)

    async def run(self, cases: Sequence[str]) -> None:
        """Run `cases`, which are all that the server has, and have it write its report."""
        for number, case in enumerate(cases, start=1):
            self.reasons[case] = await self._visit(f"/runCase?case={number}", Timing())
            if sys.stderr.isatty():
                print(f"\r{number} of {len(cases)}: {case} ", end="", file=sys.stderr)
        # The server opens this one only once the whole report is written.
        await self._visit("/updateReports?", Timing(open=300.0))

    async def _visit(self, path: str, timing: Timing) -> str:
        """Return why the WebSocket has ended, as our agent would tell it."""

        def ignore(message: Incoming) -> None:
            pass

        session = Echo(self.reactor, timing, "", ignore)
        session.authenticated.addErrback(lambda failure: failure.trap(LinkFailure) and None)
        endpoint = TCP4ClientEndpoint(
            self.reactor, "127.0.0.1", int(self.url.rpartition(":")[2]), timeout=10
        )
        dialer = Dialer(
            self.reactor, f"{self.url}{path}&agent={AGENT}", AGENT, lambda: endpoint, timing
        )
        # Its factory, so that all options are the agent's own; its dial would authenticate.
        connecting = endpoint.connect(dialer._factory(session))
        connecting.addErrback(lambda failure: session.lost(failures.of(failure)))
        giving_up = self.reactor.callLater(LONGEST_CASE, session._give_up, "the case never ended")
        reason = await session.closed
        if giving_up.active():
            giving_up.cancel()
        return str(reason)


def run_client(url: str, cases: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Return the reason each case's WebSocket ended for, and the errors that were logged."""
    from twisted.internet import reactor

    client, ended, errors = Client(reactor, url), list[object](), list[str]()

    @implementer(ILogObserver)
    def note(event: dict[str, Any]) -> None:
        if "log_failure" in event:
            errors.append(event["log_failure"].getTraceback())

    def stop(result: object) -> None:
        ended.append(result)
        try:
            reactor.stop()
        except ReactorNotRunning:
            pass

    def start() -> None:
        Deferred.fromCoroutine(client.run(cases)).addBoth(stop)

    globalLogPublisher.addObserver(note)
    reactor.callWhenRunning(start)
    reactor.run()
    globalLogPublisher.removeObserver(note)
    if not ended:
        raise KeyboardInterrupt
    if isinstance(ended[0], Failure):
        ended[0].raiseException()
    return client.reasons, errors


# What came out.


@frozen
class Outcome:
    """What became of a case: passed, failed, refused (as too big) or unimplemented, and why."""

    case: str
    kind: str
    why: str
    seconds: float


def outcome(case: str, told: Mapping[str, Any] | None, reason: str) -> Outcome:
    """
    Return the outcome of `case` by the server's report of it; `reason` is what we say.

    To pass, the connection must have been closed as the suite wants it as well.
    """
    if told is None:
        return Outcome(case, "failed", f"not in the report; we say: {reason}", 0)
    behavior, closing = told["behavior"], told["behaviorClose"]
    if case in TOO_BIG:
        kind = "refused" if behavior == "FAILED" and _refused(told) else "failed"
    elif behavior == "UNIMPLEMENTED" and category(case) in COMPRESSION:
        kind = "unimplemented"
    else:
        kind = "passed" if behavior in PASSED and closing in PASSED else "failed"
    why = (
        f"{behavior}, {told['result']} Closing {closing}, {told['resultClose']}. We say: {reason}"
    )
    return Outcome(case, kind, reason if kind == "refused" else why, told["duration"] / 1000)


def _refused(told: Mapping[str, Any]) -> bool:
    """Tell whether it was us who ended the connection, at once: by 1009 or by cutting it."""
    by_the_server = told["closedByMe"] or told["failedByMe"] or told["droppedByMe"]
    answered = set(told["rxFrameStats"]) - {"8"}
    return not by_the_server and not answered and told["remoteCloseCode"] in (None, 1009)


def category(case: str) -> str:
    """Return the first number of a case's."""
    return case.partition(".")[0]


def read_report(reports: Path, cases: Iterable[str], reasons: Mapping[str, str]) -> list[Outcome]:
    """Return the outcome of each case. Raises CannotRun where there is no report."""
    try:
        index = json.loads((reports / "index.json").read_bytes()).get(AGENT, {})
        told = {
            case: json.loads((reports / entry["reportfile"]).read_bytes())
            for case, entry in index.items()
        }
    except (OSError, ValueError) as problem:
        raise CannotRun(f"the server wrote no report that can be read: {problem}") from None
    return [outcome(case, told.get(case), reasons.get(case, "not run")) for case in cases]


def table(outcomes: Sequence[Outcome]) -> Table:
    """Return how many cases of each category came out how, with a note on each that failed."""
    kinds = ("passed", "refused", "unimplemented", "failed")
    made = Table("Autobahn test suite", ["category", "cases", *kinds, "seconds"])
    numbers = list(dict.fromkeys(category(each.case) for each in outcomes))
    for number in (*numbers, None):
        those = [each for each in outcomes if number in (None, category(each.case))]
        name = f"{number:>2} {CATEGORIES.get(number, '')}" if number else "   all"
        counts = [str(sum(each.kind == kind for each in those)) for kind in kinds]
        seconds = three_digits(sum(each.seconds for each in those))
        made.row(name, str(len(those)), *counts, seconds)
    for each in outcomes:
        if each.kind in ("failed", "refused"):
            made.notes.append(f"{each.kind} {each.case}: {each.why}")
    return made


# The command.


def prefixes(text: str) -> list[str]:
    """Return the case numbers or their beginnings: "1-3,6.4" gives 1, 2, 3, 6.4."""
    found: list[str] = []
    for part in text.split(","):
        several = re.fullmatch(r"(\d{1,3})-(\d{1,3})", part.strip())
        if several and int(several[1]) <= int(several[2]):
            found += [str(n) for n in range(int(several[1]), int(several[2]) + 1)]
        elif re.fullmatch(r"\d{1,3}(\.\d{1,3}){0,2}", part.strip()):
            found.append(part.strip())
        else:
            raise argparse.ArgumentTypeError(f"{part!r} is not like 3, 1-7, 6.4 or 9.1.6")
    return found


def run(wanted: Sequence[str]) -> int:
    """Run the cases that begin with one of `wanted`, print the table, return the status."""
    with alone(PLACE), Room() as room:
        python, reports = installed(PLACE), PLACE / "reports"
        shutil.rmtree(reports, ignore_errors=True)
        spec = room.write("spec.json", json.dumps({"outdir": str(reports), "cases": wanted}))
        server: Child = room.start("fuzzing server", str(python), "-EuWignore", "-c", SERVER, spec)
        serving = json.loads(server.line_with("serving ")[1].removeprefix("serving "))
        cases = serving["cases"]
        if not cases:
            raise CannotRun("the suite has no such cases")
        versions = ", ".join(f"{name} {version(name)}" for name in ("autobahn", "twisted"))
        print(f"{len(cases)} cases against {versions}", flush=True)
        started = time.monotonic()
        reasons, errors = run_client(serving["url"], cases)
        lasted = time.monotonic() - started
        server.check()
        outcomes = read_report(reports, cases, reasons)
    print(f"\n{table(outcomes)}")
    for error in errors:
        print(f"an error was logged:\n{error}")
    print(f"{lasted:.0f} s in all; in detail: {reports / 'index.html'}")
    return 1 if errors or any(each.kind == "failed" for each in outcomes) else 0


def main(arguments: Sequence[str]) -> int:
    """Run the suite; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.autobahn_suite",
        description="Run the Autobahn test suite against our WebSocket client.",
        epilog="It needs Python 2.7 (python2.7 on PATH, or of pyenv) and a package index.",
    )
    parser.add_argument(
        "--cases",
        type=prefixes,
        default="1-13",
        metavar="LIST",
        help="categories or cases, as in 1-7 or 6.4,9.1.6 (all)",
    )
    parsed = parser.parse_args(arguments)
    try:
        return run(parsed.cases)
    except (CannotRun, CannotMeasure, OSError) as problem:
        print(f"cannot run the Autobahn test suite: {problem}", file=sys.stderr)
        return CANNOT_RUN
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
