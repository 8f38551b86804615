"""Asking Xray itself whether it would start with a configuration."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from attrs import define, evolve
from twisted.internet.defer import Deferred

from mmwagent.host.command import CommandNotFound, CommandNotStarted, Finished
from mmwagent.host.launching import Launch, launch_of
from mmwagent.host.programs import Program, RunCommand
from mmwagent.host.service import NotInstalled, Refused
from mmwagent.xray.document import Document, InvalidDocument, parse, to_text
from mmwagent.xray.inspection import XrayNow

DEADLINE = 10.0
"""Seconds that the check may take; with geo data it takes 50 ms."""

_FAILED = "Failed to start: "
_CERTIFICATE_FILES = ("certificateFile", "keyFile")
_CERTIFICATE_VARIABLES = ("xray.location.cert", "XRAY_LOCATION_CERT")
# Without a directory of its own a child is started without a fork.
_IN_DIRECTORY = ("/bin/sh", "-c", 'cd -- "$0" && exec "$@"')


@define
class XrayCheck:
    """
    Has Xray read a configuration without serving it: `xray run -test`.

    The configuration goes there by a pipe. So no copy of it, with all its keys, ever lies beside
    the real one, where an Xray that reads the whole directory would read it too.
    """

    xray: Program
    run: RunCommand
    inspect: Callable[[], Awaitable[XrayNow]]
    in_thread: Callable[..., Deferred[Any]]

    async def check(
        self, path: Path, text: str, *, certificates_may_follow: bool = False
    ) -> tuple[str, ...]:
        """
        Raise Refused where Xray would not start with `text` as its configuration file `path`.

        With `certificates_may_follow`, certificates whose files are not there yet are left out of
        the check, and the files that are missing are returned: the master sends them only after
        the configuration that names them (its deploy sequence). Raises NotInstalled.
        """
        launch = await self._launch(path)
        try:
            await self._test(launch, text)
        except Refused:
            if not certificates_may_follow:
                raise
            certificates = _certificate_directory(launch)
            rest, missing = await self.in_thread(without_missing, text, certificates)
            if not missing:
                raise
            await self._test(launch, rest)
            return tuple(missing)
        return ()

    async def _launch(self, path: Path) -> Launch:
        processes = (await self.inspect()).processes
        binary = self.xray.binary(processes)
        if binary is None:
            raise NotInstalled("Xray is not installed, so it cannot check its configuration")
        launch = Launch((binary,), str(path.parent))
        if processes:
            running: Launch = await self.in_thread(launch_of, processes[0])
            launch = evolve(running, argv=launch.argv)
        return launch

    async def _test(self, launch: Launch, text: str) -> None:
        command = (*launch.argv, "run", "-test", "-format", "json", "-config", "stdin:")
        try:
            finished: Finished = await self.run(
                [*_IN_DIRECTORY, launch.directory, *command],
                timeout=DEADLINE,
                env=launch.whole_environment(),
                stdin=text.encode("utf-8"),
            )
        except (CommandNotFound, CommandNotStarted) as problem:
            raise NotInstalled(f"Xray cannot be asked: {problem}") from problem
        if not finished.succeeded:
            raise Refused(words_of(finished))


def words_of(finished: Finished) -> str:
    """Return why Xray ended, in its own words where it has said any."""
    if finished.timed_out:
        return f"Xray did not come to an end with it within {DEADLINE:.0f} s"
    said = (finished.output + b"\n" + finished.errors).decode("utf-8", "replace")
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    reasons = [line for line in lines if line.startswith(_FAILED)] or lines[-1:]
    if not reasons:
        return f"xray run -test ended with status {finished.status}, signal {finished.signal}"
    return reasons[-1].removeprefix(_FAILED)[:2000]


def without_missing(text: str, directory: str) -> tuple[str, list[str]]:
    """
    Return the configuration without the certificates whose files are missing, and these files.

    Relative names hang on `directory`. Blocks. Where `text` is no configuration nothing is left
    out of it.
    """
    try:
        document = parse(text)
    except InvalidDocument:
        return text, []
    missing: list[str] = []

    def present(certificate: object) -> bool:
        named = (
            certificate.get(name) for name in _CERTIFICATE_FILES if isinstance(certificate, dict)
        )
        absent = [
            name
            for name in named
            if isinstance(name, str) and name and not _exists(os.path.join(directory, name))
        ]
        missing.extend(name for name in absent if name not in missing)
        return not absent

    rest: Document = _filtered(document, present)
    return to_text(rest), missing


def _certificate_directory(launch: Launch) -> str:
    """Return what relative names of certificates hang on (Xray's common/platform)."""
    environment = launch.whole_environment()
    named = (environment.get(name) for name in _CERTIFICATE_VARIABLES)
    beside = os.path.dirname(os.path.realpath(launch.argv[0]))
    return next((directory for directory in named if directory), beside)


def _exists(path: str) -> bool:
    # A name that no file can have is not one that is still to come: Xray is to say so.
    return "\0" in path or os.path.lexists(path)


def _filtered(value: Any, present: Callable[[object], bool]) -> Any:
    if isinstance(value, list):
        return [_filtered(item, present) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        name: [one for one in item if present(one)]
        if name == "certificates" and isinstance(item, list)
        else _filtered(item, present)
        for name, item in value.items()
    }
