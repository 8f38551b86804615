"""What nginx writes to its error log, as it says there alone why a reload failed. Blocks."""

from __future__ import annotations

import os
import re
from pathlib import Path

from attrs import frozen

from mmwagent.nginx.documents import Documents
from mmwagent.nginx.layout import Layout

_MOST = 64 * 1024  # bytes read
_SERIOUS = re.compile(r"\[(?:emerg|alert|crit)\] [0-9#]+: (.*)")


@frozen
class ErrorLog:
    """The error log of a running nginx, and how long it was; None where it is no file."""

    path: Path | None
    size: int

    @classmethod
    def of(cls, layout: Layout) -> ErrorLog:
        """Return the log that the configuration names at its main level, as it stands now."""
        at_start = dict(zip(layout.options[::2], layout.options[1::2], strict=True))
        named = [
            found.directive.words[0]
            for found in Documents(layout.main).directives()
            if not found.context and found.directive.name == "error_log" and found.directive.words
        ]
        name = [*named, at_start.get("-e", "stderr")][0]
        if name == "stderr" or ":" in name:  # syslog:..., memory:...
            return cls(None, 0)
        path = layout.prefix / name
        try:
            return cls(path, os.stat(path).st_size)
        except OSError:
            return cls(path, 0)

    def since(self) -> str:
        """Return the serious messages that were written since, each once; none is empty text."""
        if self.path is None:
            return ""
        try:
            with open(self.path, "rb") as file:
                file.seek(self.size)
                data = file.read(_MOST)
        except OSError:
            return ""
        lines = data.decode("utf-8", "replace").splitlines()
        found = (_SERIOUS.search(line) for line in lines)
        return "\n".join(dict.fromkeys(match[1] for match in found if match is not None))
