"""
A settings file as written: its keys, their lines, and values that are still text.

YAML 1.1 makes 5400 of `1:30:00`, eight of `010` and a truth of `yes`. Here a plain scalar is the
text that stands in the file, or nothing (`~`, `null`), so that a token of digits stays what it is
and a slip is refused in the words in which it was written.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence

import yaml
from attrs import frozen

from mmwagent.settings_values import Complaint, Item, Raw, Refused, named, printable, read_regular

SIZE_LIMIT = 1024 * 1024
_LIST_LIMIT = 256
_KEY_LIMIT = 256
_NULLS = ("", "~", "null", "Null", "NULL")
_TAG = "tag:yaml.org,2002:"
_PLAIN_TAGS = {_TAG + kind for kind in ("str", "int", "float", "bool")}

# The parser's own words may quote the file, so they are never passed on.
_IN_PLAIN_WORDS = (
    ("found character '\\t'", "a tab; YAML is indented with spaces only"),
    ("cannot start any token", "a value cannot begin with this character; put it in quotes"),
    ("mapping values are not allowed", "a colon too many, one missing above, or a wrong indent"),
    ("could not find expected ':'", "a line that is not `key: value`"),
    ("expected <block end>", "this does not fit what stands before it; check indent and quotes"),
    ("found unexpected end of stream", "a quote that is opened here is never closed"),
    ("expected ',' or", "a bracket that is opened here is not closed"),
    ("found undefined alias", "a value cannot begin with *; put it in quotes"),
    ("escape", "a backslash in double quotes begins an escape; use single quotes"),
    ("found another document", "a second document begins here; a file holds one"),
)
# Where these begin tells more than where the parser noticed.
_BEGIN_MATTERS = ("could not find expected ':'", "unexpected end of stream", "expected ',' or")


class _TextLoader(yaml.SafeLoader):
    """A loader that is used up to the nodes only, and tells nothing apart but text and null."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - the name is PyYAML's
        first: [(_TAG + "null", yaml.SafeLoader.yaml_implicit_resolvers["~"][0][1])]
        for first in ("", "~", "n", "N")
    }


@frozen
class Entry:
    """One key of the file's top level, with its line (from 1) and its value, not yet looked at."""

    key: str
    line: int
    node: yaml.Node

    def raw(self) -> Raw:
        """Return the value as text or a list. Null is empty text. Raises Refused for others."""
        if isinstance(self.node, yaml.SequenceNode):
            return _items(self.node)
        return _scalar(self.node)


@frozen
class Document:
    """
    What a settings file holds.

    `problems` are whole sentences. `complete` is False when the file could not be read to its
    end, so nothing may be called missing. `exposed_to` names who can read it besides its owner.
    """

    entries: tuple[Entry, ...] = ()
    problems: tuple[str, ...] = ()
    complete: bool = False
    exposed_to: str | None = None


def read(path: str) -> Document:
    """Return what the settings file at `path` holds. Raises nothing: see `Document.problems`."""
    name = printable(path)
    try:
        content, status = read_regular(path, SIZE_LIMIT)
    except OSError as error:
        return Document(problems=(f"{name}: {error.strerror}",))
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        return Document(problems=(f"{name} line {line}: the file is not UTF-8 text",))
    root, problem = _compose(name, text)
    if problem is not None:
        return Document(problems=(problem,))
    if root is None or (isinstance(root, yaml.ScalarNode) and root.tag == _TAG + "null"):
        return Document(complete=True)
    if not isinstance(root, yaml.MappingNode):
        return Document(problems=(f"{name}: the file must be lines of `key: value`",))
    if len(root.value) > _KEY_LIMIT:
        many = f"{name}: more than {_KEY_LIMIT} keys, this is no settings file of the agent"
        return Document(problems=(many,))
    problems: list[str] = []
    entries = tuple(_entries(name, root, problems))
    return Document(entries, tuple(problems), complete=True, exposed_to=exposed_to(status))


def exposed_to(status: os.stat_result) -> str | None:
    """Return who can read a file besides its owner and root's group, or None."""
    if status.st_mode & stat.S_IROTH:
        return "everybody"
    # Debian's way for a file with secrets is 0640 root:root.
    if status.st_mode & stat.S_IRGRP and status.st_gid != 0:
        return "its group"
    return None


def _compose(name: str, text: str) -> tuple[yaml.Node | None, str | None]:
    """Return the root node, or the problem that stops at the first broken place."""
    try:
        return yaml.compose(text, Loader=_TextLoader), None
    except yaml.MarkedYAMLError as error:
        return None, f"{name} {_explained(error)}"
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        return None, f"{name} line {line}: a control character (code {ord(text[error.position])})"
    except RecursionError:
        return None, f"{name}: brackets or lists are nested too deeply"
    except (ValueError, OverflowError, IndexError):
        # PyYAML lets these out for impossible escapes and huge version numbers.
        return None, f"{name}: not valid YAML; look for an escape after a backslash"


def _explained(error: yaml.MarkedYAMLError) -> str:
    said = error.problem or ""
    mark = error.problem_mark or error.context_mark
    if error.context_mark is not None and any(part in said for part in _BEGIN_MATTERS):
        mark = error.context_mark
    plain = next((words for part, words in _IN_PLAIN_WORDS if part in said), "not valid YAML")
    return f"line {mark.line + 1} column {mark.column + 1}: {plain}" if mark else f": {plain}"


def _entries(name: str, root: yaml.MappingNode, problems: list[str]) -> Iterator[Entry]:
    repeated = _repeated_keys(root)
    problems.extend(
        f"{name} line {again}: {named(key)} is given twice, first on line {first}"
        for key, first, again in repeated
    )
    seen: set[str] = set()
    for key, value in root.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            problems.append(f"{name} line {line}: a key must be a plain word")
        elif key.value == "<<":
            problems.append(f"{name} line {line}: merging with << is not supported")
        elif key.value not in seen:
            seen.add(key.value)
            yield Entry(key.value, line, value)


def _repeated_keys(root: yaml.Node) -> list[tuple[str, int, int]]:
    """Return key, first line and later line of every key that a mapping holds twice."""
    found: list[tuple[str, int, int]] = []
    visited: set[int] = set()
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if id(node) in visited or isinstance(node, yaml.ScalarNode):
            continue
        visited.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            waiting.extend(node.value)
            continue
        first_lines: dict[str, int] = {}
        for key, value in node.value:
            waiting.extend((key, value))
            if isinstance(key, yaml.ScalarNode):
                line = key.start_mark.line + 1
                if key.value in first_lines:
                    found.append((key.value, first_lines[key.value], line))
                else:
                    first_lines[key.value] = line
    return sorted(found, key=lambda each: each[2])


def _scalar(node: yaml.Node) -> str:
    if isinstance(node, yaml.ScalarNode):
        if node.tag == _TAG + "null" and node.value in _NULLS:
            return ""
        if node.start_mark.line != node.end_mark.line:
            # Most likely a slip that swallowed the next line, which may hold a token.
            raise Refused(Complaint("a text of several lines", "stand on one line"))
        if node.tag in _PLAIN_TAGS:
            return str(node.value)
        raise Refused(Complaint("a value with a YAML tag (!)", "be plain text; put it in quotes"))
    kind = "a mapping" if isinstance(node, yaml.MappingNode) else "a list in a list"
    raise Refused(Complaint(kind, "be a single value or a plain list"))


def _items(node: yaml.SequenceNode) -> Sequence[Item]:
    # Aliases make a short file a huge list, so the length has a limit.
    if len(node.value) > _LIST_LIMIT:
        raise Refused(Complaint("a very long list", f"hold at most {_LIST_LIMIT} entries"))
    return [_item(child) for child in node.value]


def _item(node: yaml.Node) -> Item:
    if not isinstance(node, yaml.MappingNode):
        return _scalar(node)
    if len(node.value) > _LIST_LIMIT:
        raise Refused(Complaint("a very long entry", f"hold at most {_LIST_LIMIT} keys"))
    return {_scalar(key): _scalar(value) for key, value in node.value}
