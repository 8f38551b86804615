"""Changing one value in a settings file, and not one character beside it. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence

import yaml

_NULL = "tag:yaml.org,2002:null"


class CannotEdit(ValueError):
    """The file is not of a form in which this value could be changed safely."""


def with_value(text: str, keys: Sequence[str], value: str) -> str:
    """
    Return `text`, a YAML mapping, with `value` under the first of `keys` that has a value in it.

    Comments, order and everything else stay as they are. Raises CannotEdit where none of the keys
    has one, or the outcome would not read as it should.
    """
    node = _scalar_of(_mapping(text), keys)
    # JSON's way to quote is one of YAML's as well.
    edited = text[: node.start_mark.index] + json.dumps(value) + text[node.end_mark.index :]
    if not _differ_in(node, text, edited) or value not in _values(edited, keys):
        raise CannotEdit("this value cannot be changed without changing more than it")
    return edited


def _mapping(text: str) -> yaml.MappingNode:
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, ValueError, OverflowError, IndexError, RecursionError):
        # PyYAML lets all of these out. Their words may quote the file, and so the token.
        raise CannotEdit("the file is no longer valid YAML") from None
    if not isinstance(root, yaml.MappingNode):
        raise CannotEdit("the file is no mapping")
    return root


def _scalar_of(root: yaml.MappingNode, keys: Sequence[str]) -> yaml.ScalarNode:
    found = {key.value: value for key, value in root.value if isinstance(key, yaml.ScalarNode)}
    for key in keys:
        node = found.get(key)
        if isinstance(node, yaml.ScalarNode) and node.tag != _NULL and node.value.strip():
            return node
    raise CannotEdit(f"the file holds none of {', '.join(keys)}")


def _differ_in(changed: yaml.ScalarNode, text: str, edited: str) -> bool:
    try:
        return _others(edited, changed) == _others(text, changed)
    except CannotEdit:
        return False


def _others(text: str, changed: yaml.ScalarNode) -> list[tuple[str, str]]:
    """Return all keys with their values in a form to compare, but for the one that changed."""
    return [
        (yaml.serialize(key), yaml.serialize(value))
        for key, value in _mapping(text).value
        if value.start_mark.index != changed.start_mark.index
    ]


def _values(text: str, keys: Sequence[str]) -> list[str]:
    return [value.value for key, value in _mapping(text).value if key.value in keys]
