"""Edits of a configuration's text that touch what they are about and nothing else. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from mmwagent.nginx.grammar import Directive, parse, quoted
from mmwagent.nginx.listens import listens


def with_include(text: str, block: Directive, pattern: str) -> str:
    """Return `text` with an include of `pattern` as the last directive of its block `block`."""
    line = f"    include {quoted(pattern)};\n"
    head, tail = text[: block.closing], text[block.closing :]
    body = head.rstrip(" \t")
    margin = head[len(body) :]
    if body.endswith("\n"):
        return f"{body}{margin}{line}{margin}{tail}"
    return f"{head}\n{line}{tail}"


def bridge(pattern: Path) -> str:
    """Return the text of a file that does nothing but include `pattern`."""
    return f"# The sites that are set up by the master.\ninclude {quoted(str(pattern))};\n"


def without_port(text: str, port: int) -> tuple[str, int]:
    """
    Return `text` without the servers of it that listen on `port`, and how many were concerned.

    A server that listens elsewhere too keeps that and loses the one `listen`. For the files that
    a `stream` block includes: only servers at the top of the text count. Raises GrammarError.
    """
    cuts: list[Directive] = []
    removed = 0
    for server in parse(text):
        if server.name != "server" or server.block is None:
            continue
        all_of_them = list(listens(server))
        concerned = [one.directive for one in all_of_them if one.takes(port)]
        if concerned:
            removed += 1
            cuts += [server] if len(concerned) == len(all_of_them) else concerned
    return _without(text, cuts), removed


def _without(text: str, cuts: Iterable[Directive]) -> str:
    for cut in sorted(cuts, key=lambda directive: directive.start, reverse=True):
        start, end = _line_of(text, cut)
        text = text[:start] + text[end:]
    return text


def _line_of(text: str, cut: Directive) -> tuple[int, int]:
    """Return where `cut` begins and ends, with its lines where nothing else stands in them."""
    start = len(text[: cut.start].rstrip(" \t"))
    end = cut.end + len(text[cut.end :]) - len(text[cut.end :].lstrip(" \t\r"))
    alone = (start == 0 or text[start - 1] == "\n") and text[end : end + 1] in ("", "\n")
    return (start, end + 1) if alone else (cut.start, cut.end)
