"""Freeing a port that stream servers of nginx hold. Blocks, for it reads the files."""

from __future__ import annotations

from pathlib import Path

from attrs import frozen

from mmwagent.host.service import Refused
from mmwagent.nginx.documents import Documents, as_bytes
from mmwagent.nginx.edits import without_port
from mmwagent.nginx.grammar import GrammarError
from mmwagent.nginx.layout import STREAM_SERVERS, Layout


@frozen
class Clearance:
    """Which files change, and how many servers of them give the port up."""

    contents: dict[Path, bytes | None]
    removed: int


def clearance(layout: Layout, port: int) -> Clearance:
    """
    Return what it takes that no stream server of the master's holds `port`.

    Those are the ones in files of a directory stream_servers that the stream block includes;
    whatever somebody has written elsewhere is left alone. Raises Refused.
    """
    places = layout.places()
    documents = Documents(layout.main)
    files = dict.fromkeys(
        found.file
        for found in documents.directives()
        if found.context == ("stream",) and found.file.parent.name == STREAM_SERVERS
    )
    contents: dict[Path, bytes | None] = {}
    removed = 0
    for file in files:
        try:
            path = places.editable(str(file))
            text, count = without_port(documents.text(file), port)
        except (OSError, ValueError, GrammarError) as problem:
            raise Refused(f"{file}: {problem}") from problem
        if count:
            contents[path] = as_bytes(text)
            removed += count
    return Clearance(contents, removed)
