"""The READMEs say what is so: held against the settings, the routes, the Makefile and the tree."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from inspect import signature
from pathlib import Path
from typing import Any
from unittest.mock import Mock

from attrs import frozen
from twisted.trial.unittest import SynchronousTestCase

from mmwagent.manage.routes import routes
from mmwagent.settings import OPTIONS, known_keys, load
from mmwagent.testing import console
from mmwagent.xray.addresses import DEFAULT_METRICS, metrics_addresses
from mmwagent.xray.document import parse

ROOT = Path(__file__).resolve().parent.parent
ENGLISH, CHINESE = "README.md", "README.zh.md"
NO_VALUE = "—"

_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^(#+) (.+)$", re.MULTILINE)
_LINK = re.compile(r"\[[^\]]+\]\(([^)]+)\)")
_CODE = re.compile(r"`([^`\n]+)`")


@frozen
class Readme:
    """One README. `prose` is its text without the fenced blocks."""

    name: str
    text: str

    @property
    def blocks(self) -> list[tuple[str, str]]:
        """The fenced blocks: language and content."""
        return _FENCE.findall(self.text)

    @property
    def prose(self) -> str:
        """The text without the fenced blocks."""
        return _FENCE.sub("", self.text)

    @property
    def headings(self) -> list[tuple[str, str]]:
        """The headings: the signs # before them, and their words."""
        return _HEADING.findall(self.prose)

    @property
    def code(self) -> str:
        """All that is set as code: the shell's blocks and what stands between backticks."""
        shell = [content for language, content in self.blocks if language == "sh"]
        return "\n".join([*shell, *_CODE.findall(self.prose)])

    def block(self, language: str) -> Iterator[str]:
        """Give the content of each block in this language."""
        yield from (content for its, content in self.blocks if its == language)

    def table(self, *first: str) -> list[list[str]]:
        """Return the rows of the one table whose first row begins with the cells `first`."""
        found = [table for table in self.tables() if table[0][: len(first)] == list(first)]
        assert len(found) == 1, f"{self.name}: {len(found)} tables begin with {first}"
        return found[0]

    def tables(self) -> Iterator[list[list[str]]]:
        """Give the rows of each table, its head left out."""
        for table in re.findall(r"^\|.*\n\|[-|]+\n((?:\|.*\n)+)", self.prose, re.MULTILINE):
            yield [_cells(row) for row in table.splitlines()]


def _cells(row: str) -> list[str]:
    return [cell.strip() for cell in row.strip().strip("|").split("|")]


def _ticked(words: Sequence[str]) -> list[str]:
    return [f"`{word}`" for word in words]


def _anchor(heading: str) -> str:
    """Return the fragment by which a heading is linked to."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def readmes() -> tuple[Readme, Readme]:
    """Return both READMEs."""
    english, chinese = (
        Readme(name, (ROOT / name).read_text(encoding="utf-8")) for name in (ENGLISH, CHINESE)
    )
    return english, chinese


class SettingsTests(SynchronousTestCase):
    """What the READMEs say of the settings."""

    def test_table(self) -> None:
        """Each setting has its row, with its variables and its default, and no other key has."""
        expected = [
            [
                f"`{option.name}`",
                _ticked(option.variables),
                f"`{option.default_text}`" if option.default_text else NO_VALUE,
            ]
            for option in OPTIONS
        ]
        for readme in readmes():
            rows = readme.table("`master_server`")
            told = [
                [name, re.findall(r"`[^`]+`", variables), default]
                for name, variables, default, _ in rows
            ]
            self.assertEqual(told, expected, readme.name)

    def test_each_row_says_something(self) -> None:
        """No meaning is left empty, and none is left in the other's words."""
        english, chinese = (readme.table("`master_server`") for readme in readmes())
        for one, other in zip(english, chinese, strict=True):
            self.assertTrue(one[3], one)
            self.assertTrue(other[3], other)
            if one[0] not in ("`connection_mode`", "`log_level`"):
                self.assertRegex(other[3], "[\u4e00-\u9fff]")

    def test_absent_variables(self) -> None:
        """A setting without a variable says so."""
        none = [f"`{option.name}`" for option in OPTIONS if not option.variables]
        for readme in readmes():
            rows = readme.table("`master_server`")
            self.assertEqual([row[0] for row in rows if row[1] == NO_VALUE], none)

    def test_aliases(self) -> None:
        """Each alias has its row with the name it stands for, and nothing else has."""
        expected = [_ticked((alias, row.name)) for row in OPTIONS for alias in row.aliases]
        for readme in readmes():
            self.assertEqual(readme.table("`master_url`"), expected, readme.name)

    def test_every_variable_named_is_one(self) -> None:
        """No variable that the agent does not read is named, anywhere."""
        known = {variable for option in OPTIONS for variable in option.variables}
        for readme in readmes():
            named = set(re.findall(r"MMWX_\w+", readme.text))
            self.assertEqual(named, known, readme.name)

    def test_examples(self) -> None:
        """Each YAML example is good as it stands: no problem, no warning, no alias."""
        for readme in readmes():
            examples = list(readme.block("yaml"))
            self.assertTrue(examples, readme.name)
            for example in examples:
                file = Path(self.mktemp())
                file.touch(0o600)
                file.write_text(example, encoding="utf-8")
                settings = load(str(file), {})
                self.assertEqual(settings.warnings, (), readme.name)
                keys = re.findall(r"^(\w+):", example, re.MULTILINE)
                self.assertEqual(set(keys) - set(known_keys()), set())


class ApiTests(SynchronousTestCase):
    """What the READMEs say of what is served."""

    def test_management(self) -> None:
        """The table has each route that is served, and no other."""
        table: Any = routes(**{name: Mock() for name in signature(routes).parameters})
        served = sorted([route.method, f"`{route.path}`"] for route in table)
        for readme in readmes():
            rows = readme.table("GET", "`/health`")
            self.assertEqual(sorted(row[:2] for row in rows), served, readme.name)

    def test_stand_in(self) -> None:
        """The table has each verb and path of the stand-in master's JSON API."""
        described = re.findall(r"^ +([A-Z]+) +(/standin/\S+)", console.__doc__ or "", re.MULTILINE)
        self.assertTrue(described)
        expected = [[verb, f"`{path}`"] for verb, path in described]
        for readme in readmes():
            rows = readme.table("GET", "`/standin/agents`")
            self.assertEqual([row[:2] for row in rows], expected, readme.name)

    def test_answers(self) -> None:
        """Each example of an answer is JSON, in the shape that all answers have."""
        for readme in readmes():
            lines = [line for block in readme.block("jsonl") for line in block.splitlines()]
            self.assertTrue(lines, readme.name)
            health, *others = map(json.loads, lines)
            self.assertEqual(set(health), {"status", "mode"})
            for answer in others:
                self.assertIsInstance(answer["success"], bool)

    def test_bodies(self) -> None:
        """What the examples of curl send is JSON."""
        for readme in readmes():
            bodies = re.findall(r"-d '([^']+)'", readme.code)
            self.assertTrue(bodies, readme.name)
            for body in bodies:
                self.assertIsInstance(json.loads(body), dict)

    def test_xray(self) -> None:
        """With the parts that Xray is said to need, its counters are looked for where they are."""
        for readme in readmes():
            (example,) = readme.block("json")
            document = parse(example)
            self.assertEqual(set(document), {"stats", "metrics", "policy"})
            self.assertEqual(metrics_addresses(document), (DEFAULT_METRICS,), readme.name)


class TreeTests(SynchronousTestCase):
    """What the READMEs say of the checkout."""

    def test_targets(self) -> None:
        """Each target of make that is named is in the Makefile, and the main ones are named."""
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        targets = set(re.findall(r"^([a-z]+):.*## ", makefile, re.MULTILINE))
        for readme in readmes():
            named = set(re.findall(r"\bmake ([a-z]+)", readme.code))
            self.assertEqual(named - targets, set(), readme.name)
            self.assertEqual({"run", "test", "lint", "bench", "peers"} - named, set())

    def test_parts_to_test(self) -> None:
        """Each part that `make test` is said to take is there."""
        for readme in readmes():
            parts = re.findall(r"\bT=([\w.]+)", readme.code)
            self.assertTrue(parts, readme.name)
            for part in parts:
                place = ROOT.joinpath(*part.split("."))
                self.assertTrue(place.is_dir() or place.with_suffix(".py").is_file(), part)

    def test_paths(self) -> None:
        """Each file and directory that is named is there."""
        ours = re.compile(r"(?:mmwagent|tools|tests|benchmarks|twisted)/[\w./-]*")
        for readme in readmes():
            named = [word for word in _CODE.findall(readme.prose) if ours.fullmatch(word)]
            named += [path for path in readme.code.split() if ours.fullmatch(path)]
            self.assertTrue(named, readme.name)
            absent = [path for path in named if not (ROOT / path).exists()]
            self.assertEqual(absent, [], readme.name)

    def test_rooms(self) -> None:
        """Each room of the package is in the layout."""
        rooms = {f"mmwagent/{path.parent.name}/" for path in ROOT.glob("mmwagent/*/__init__.py")}
        for readme in readmes():
            self.assertEqual(rooms - set(_CODE.findall(readme.prose)), set(), readme.name)

    def test_links(self) -> None:
        """Each link leads to a file that is there, or to a heading of the same text."""
        for readme in readmes():
            anchors = {"#" + _anchor(words) for _, words in readme.headings}
            links = _LINK.findall(readme.prose)
            self.assertTrue(links, readme.name)
            for link in links:
                self.assertTrue(link in anchors or (ROOT / link).is_file(), link)


class TwoLanguagesTests(SynchronousTestCase):
    """How the two READMEs stand to each other."""

    def test_each_links_the_other(self) -> None:
        """The other language is one click away, before anything else is said."""
        english, chinese = readmes()
        self.assertEqual(_LINK.findall(english.text)[0], CHINESE)
        self.assertEqual(_LINK.findall(chinese.text)[0], ENGLISH)
        for readme in (english, chinese):
            self.assertIn("](README.", readme.text.split("\n\n")[1])

    def test_sections(self) -> None:
        """Both have the same sections: as many, of the same levels, in the same order."""
        levels = [[signs for signs, _ in readme.headings] for readme in readmes()]
        english, chinese = levels
        self.assertEqual(english, chinese)
        self.assertGreater(len(english), 10)

    def test_blocks(self) -> None:
        """Both have the same commands and examples, character by character."""
        english, chinese = (readme.blocks for readme in readmes())
        self.assertEqual(english, chinese)

    def test_every_fence_is_read(self) -> None:
        """No fenced block escapes these tests for want of a language."""
        for readme in readmes():
            self.assertEqual(readme.text.count("```"), 2 * len(readme.blocks), readme.name)

    def test_same_words_of_code(self) -> None:
        """What is set as code in the one is in the other: settings, paths, headers, commands."""
        english, chinese = (sorted(set(_CODE.findall(readme.prose))) for readme in readmes())
        self.assertEqual(english, chinese)

    def test_tables(self) -> None:
        """Both have the same tables, row by row; what is set as code in them is the same."""

        def codes(readme: Readme) -> list[list[list[str]]]:
            return [[_CODE.findall(" ".join(row)) for row in table] for table in readme.tables()]

        english, chinese = readmes()
        self.assertEqual(codes(english), codes(chinese))
