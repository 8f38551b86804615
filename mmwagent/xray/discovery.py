"""
Which Xray servers are here: the one answer that everybody uses.

The settings name their configuration files, else the three default paths of the README are looked
at (its section on discovery, Xray 自动发现). A look is cheap while nothing has changed, so callers
look each time, and an Xray that is installed, moved or set up anew later is known without a
restart of the agent.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from threading import Lock

from attrs import define, field, frozen

from mmwagent.logs import logger
from mmwagent.xray.document import Document, InvalidDocument, parse

log = logger()

DEFAULT_PATHS = (
    "/usr/local/etc/xray/config.json",
    "/etc/xray/config.json",
    "/opt/xray/config.json",
)
MAX_BYTES = 64 * 1024 * 1024


@frozen
class XrayServer:
    """An Xray on this host: the real path of its configuration, and what stands in it."""

    config_path: str
    document: Document = field(repr=False)


@frozen
class _Stamp:
    """What changes when a file does: cheaper to ask for than its content."""

    device: int
    inode: int
    size: int
    changed: int

    @classmethod
    def of(cls, path: str) -> _Stamp:
        found = os.stat(path)
        # Not the time of its content: that may be set back, and a chmod may make it readable.
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_ctime_ns)


@define
class Discovery:
    """
    Looks for Xray servers at `paths`.

    `configured` tells whether the settings name them: only then is a missing one worth a warning.
    """

    paths: Sequence[str] = DEFAULT_PATHS
    configured: bool = False
    _known: dict[str, tuple[_Stamp, XrayServer | None]] = field(factory=dict, init=False)
    _missing: set[str] = field(factory=set, init=False)
    _lock: Lock = field(factory=Lock, init=False, repr=False)

    def look(self) -> tuple[XrayServer, ...]:
        """
        Return the servers found now, each real path once, in the order of `paths`.

        Blocks while a changed file is read: call it in a thread, or in several. What cannot be
        read is left out and said once in the log.
        """
        found: dict[str, XrayServer] = {}
        with self._lock:
            for path in self.paths:
                real = os.path.realpath(path)
                server = self._look_at(path, real)
                if server is not None:
                    found[real] = server
        return tuple(found.values())

    def _look_at(self, path: str, real: str) -> XrayServer | None:
        try:
            stamp = _Stamp.of(real)
            known = self._known.get(real)
            if known is None or known[0] != stamp:
                known = self._known[real] = (stamp, _read(path, real))
        except OSError as error:
            self._unreadable(path, real, error)
            return None
        self._missing.discard(path)
        return known[1]

    def _unreadable(self, path: str, real: str, error: OSError) -> None:
        was_known = self._known.pop(real, None) is not None
        if path in self._missing:
            return
        self._missing.add(path)
        nothing_there = isinstance(error, FileNotFoundError | NotADirectoryError)
        if was_known or self.configured or not nothing_there:
            log.warn(
                "no Xray configuration from {path}: {reason}; it is looked for again",
                path=path,
                reason=error.strerror,
            )


def _read(path: str, real: str) -> XrayServer | None:
    try:
        if not os.path.isfile(real):
            raise InvalidDocument("no file")  # to open a pipe would wait for its other end
        with open(real, "rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise InvalidDocument(f"larger than {MAX_BYTES // 2**20} MiB")
        document = parse(data.decode("utf-8-sig"))
    except ValueError as error:
        log.warn("cannot use {path}: {reason}", path=path, reason=str(error))
        return None
    log.info("Xray configuration read from {path}", path=path)
    return XrayServer(real, document)
