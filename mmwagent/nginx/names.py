"""Host names as nginx's files may hold them: a strict grammar, for they become text and paths."""

from __future__ import annotations

import re

import idna

_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_LONGEST = 253  # characters (RFC 1035, 2.3.4)


class NoHostName(ValueError):
    """A text that is no host name; str() says why."""


def host_name(text: str) -> str:
    """
    Return the host name `text` in ASCII and small letters; "*." may stand before it.

    Letters, digits and hyphens in at least two labels of at most 63 (RFC 1123, 2.1), the last of
    them not a number; international names as IDNA 2008 writes them. Raises NoHostName.
    """
    star = "*." if text.startswith("*.") else ""
    name = text.removeprefix("*.")
    if not name or len(name) > _LONGEST:
        # Before IDNA: it takes long for a huge one.
        raise NoHostName("it must be a host name of at most 253 characters")
    if not name.isascii():
        name = _ascii(name)
    name = name.lower()
    labels = name.split(".")
    if len(star + name) > _LONGEST or not all(_LABEL.fullmatch(label) for label in labels):
        raise NoHostName(
            "it must be a host name: letters, digits and hyphens, with dots between (or *.NAME)"
        )
    if len(labels) < 2 or labels[-1].isdigit():
        raise NoHostName("it must be a full host name, as in www.example.com, and no address")
    return star + name


def file_stem(name: str) -> str:
    """Return the name that files of the host name `name` have: a wildcard's begins with "_."."""
    return f"_{name[1:]}" if name.startswith("*") else name


def _ascii(name: str) -> str:
    try:
        return idna.encode(name, uts46=True).decode("ascii")
    except UnicodeError as problem:
        raise NoHostName(f"it is no international host name: {problem}") from None
