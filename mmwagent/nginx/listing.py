"""The configuration files of nginx that can be read and written here. Blocks."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

from attrs import frozen

from mmwagent.nginx.layout import Layout, Places

MAIN = "main"
MOST = 5000
"""Files of one directory that are listed."""


@frozen
class ConfigFile:
    """A file: its name, the path by which nginx knows it, its size in bytes, its last change."""

    name: str
    path: Path
    size: int
    modified: datetime


def listing(layout: Layout) -> dict[str, list[ConfigFile]]:
    """
    Return the configuration files by directory, named relative to that of the main file.

    "main" has the main file and what lies beside it, the main file first.
    """
    places = layout.places()
    files = {
        _group(places, directory): _files(places, directory)
        for directory in places.directories
        if directory.is_dir() or directory == layout.directory
    }
    files[MAIN].sort(key=lambda file: file.path != layout.main)
    return files


def _group(places: Places, directory: Path) -> str:
    if directory == places.bases[0]:
        return MAIN
    base = next(one for one in places.bases if one in directory.parents)
    return str(directory.relative_to(base))


def _files(places: Places, directory: Path) -> list[ConfigFile]:
    try:
        names = sorted(os.listdir(directory))[:MOST]
    except OSError:
        return []
    found = (_file(places, directory / name) for name in names)
    return [file for file in found if file is not None]


def _file(places: Places, path: Path) -> ConfigFile | None:
    try:
        status = os.stat(places.editable(str(path)))
    except (OSError, ValueError):
        return None
    modified = datetime.fromtimestamp(status.st_mtime, UTC)
    return ConfigFile(os.fsdecode(path.name), path, status.st_size, modified)
