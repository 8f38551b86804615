"""Tests of changing one value in a settings file, and nothing beside it."""

from __future__ import annotations

import yaml
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mmwagent.settings_edit import CannotEdit, with_value

KEYS = ("remote_token", "token")
NEW = "n3w-token"


def edited(text: str) -> str:
    """Change the token in `text`."""
    return with_value(text, KEYS, NEW)


class FormsTests(SynchronousTestCase):
    """Every way to write a value down."""

    def test_forms(self) -> None:
        """The value alone is replaced, whatever stands around it and however it was quoted."""
        for before, after in (
            ("remote_token: old\n", 'remote_token: "n3w-token"\n'),
            ("remote_token: old", 'remote_token: "n3w-token"'),
            ("token: 'old'\n", 'token: "n3w-token"\n'),
            ('token: "o\\x6cd"  # why\n', 'token: "n3w-token"  # why\n'),
            ("token: 'it''s'\n", 'token: "n3w-token"\n'),
            ("token: 12345\n", 'token: "n3w-token"\n'),
            ("token: old#no-comment\n", 'token: "n3w-token"\n'),
            ("token:    old   \n", 'token:    "n3w-token"   \n'),
            ("token:\n  old\n", 'token:\n  "n3w-token"\n'),
            ("token: !!str old\n", 'token: "n3w-token"\n'),
            ("'token': old\n", "'token': \"n3w-token\"\n"),
            ("? token\n: old\n", '? token\n: "n3w-token"\n'),
            ("{remote_token: old, a: b}", '{remote_token: "n3w-token", a: b}'),
            ('{"token":"old","a":1}', '{"token":"n3w-token","a":1}'),
            ("\ufefftoken: old\r\n", '\ufefftoken: "n3w-token"\r\n'),
            ("a: 1\r\ntoken: old # c\r\nb: 2\r\n", 'a: 1\r\ntoken: "n3w-token" # c\r\nb: 2\r\n'),
            ("--- # x\ntoken: old\n...\n", '--- # x\ntoken: "n3w-token"\n...\n'),
            ("a: 😀 # 例\ntoken: old\n", 'a: 😀 # 例\ntoken: "n3w-token"\n'),
            ("? [a]\n: b\ntoken: old\n", '? [a]\n: b\ntoken: "n3w-token"\n'),
            ("a: &x old\ntoken: old\nb: *x\n", 'a: &x old\ntoken: "n3w-token"\nb: *x\n'),
            ("a: {token: x}\ntoken: old\n", 'a: {token: x}\ntoken: "n3w-token"\n'),
        ):
            with self.subTest(before=before):
                self.assertEqual(edited(before), after)

    def test_which_key(self) -> None:
        """The first name that has a value is the one that counted, and so the one changed."""
        for before, after in (
            ("token: a\nremote_token: b\n", 'token: a\nremote_token: "n3w-token"\n'),
            ("remote_token:\ntoken: a\n", 'remote_token:\ntoken: "n3w-token"\n'),
            ("remote_token: ''\ntoken: a\n", "remote_token: ''\ntoken: \"n3w-token\"\n"),
            ("remote_token: ~\ntoken: a\n", 'remote_token: ~\ntoken: "n3w-token"\n'),
        ):
            with self.subTest(before=before):
                self.assertEqual(edited(before), after)

    def test_refused(self) -> None:
        """Where one value cannot be changed alone nothing is, and the reason is said."""
        nothing = "the file holds none of remote_token, token"
        alone = "this value cannot be changed without changing more than it"
        for text, words in (
            ("", "the file is no mapping"),
            ("- token\n", "the file is no mapping"),
            ("a: 1\n", nothing),
            ("token:\n", nothing),
            ("token: null\n", nothing),
            ("token: [old]\n", nothing),
            ("token: {a: b}\n", nothing),
            ("Token: old\n", nothing),
            ("a: {token: old}\n", nothing),
            ("token: &x old\na: *x\n", alone),
            ("a: &x old\ntoken: *x\n", alone),
            ("token: |\n  old\na: 1\n", alone),
            ("token: >-\n  old\na: 1\n", alone),
            ("token: s3cret: x\n", "the file is no longer valid YAML"),
            ("token: 's3cret\n", "the file is no longer valid YAML"),
            ("a: *b\ntoken: s3cret\n", "the file is no longer valid YAML"),
            ("token: s3cret\n---\na: 1\n", "the file is no longer valid YAML"),
            ('a: "\\UFFFFFFFF"\ntoken: s3cret\n', "the file is no longer valid YAML"),
            ("a: \0\ntoken: s3cret\n", "the file is no longer valid YAML"),
            ("%YAML " + "9" * 5000 + ".1\n---\ntoken: s3cret\n", "no longer valid YAML"),
            ("token: s3cret\na: " + "[" * 5000 + "\n", "the file is no longer valid YAML"),
        ):
            with self.subTest(text=text[:40]):
                error = self.assertRaises(CannotEdit, edited, text)
                self.assertIn(words, str(error))
                self.assertNotIn("s3cret", str(error))
                self.assertIsNone(error.__cause__)

    def test_any_token(self) -> None:
        """A token of any characters reads back as it is."""
        token = "".join(map(chr, range(33, 127)))
        for before in ("token: old\n", "{token: old}", "token: 'old' # c\n"):
            after = with_value(before, KEYS, token)
            self.assertEqual(yaml.safe_load(after)["token"], token)


WORDS = st.text(alphabet="ab:#'\"{}[],&*!|>-? é\\~", max_size=6)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=6,
)
MAPPINGS = st.dictionaries(WORDS | st.sampled_from(KEYS), VALUES, max_size=6)
LINES = st.sampled_from(
    [
        *("token: old", "remote_token: 'old' # c", "token: &a old", "token: |", "token: >-"),
        *("token:", "a: *a", "a: &a x", "  b", "# c", "", "- x", "a: 1", "'b': \"x", "? token"),
        *(": old", "{token: old}", "{", "}", "---", "...", "a: {token: x}", "token: !x old", "\t"),
        *("<<: {token: x}", "[token]: x", "token: 'old", "  ld'", "a: b: c", "%TAG ! x"),
    ]
)


class AnyFileTests(SynchronousTestCase):
    """What holds for every file."""

    def check(self, before: str) -> None:
        """Check that the file is refused, or that one value changed and nothing else."""
        try:
            after = edited(before)
        except CannotEdit:
            return
        old, new = (yaml.compose(text, Loader=yaml.SafeLoader).value for text in (before, after))
        changed = [
            (key.value, now.value)
            for (key, was), (_, now) in zip(old, new, strict=True)
            if yaml.serialize(was) != yaml.serialize(now)
        ]
        self.assertEqual(
            [yaml.serialize(key) for key, _ in old], [yaml.serialize(k) for k, _ in new]
        )
        self.assertIn([value for _, value in changed], ([NEW], []))
        self.assertIn(NEW, [now.value for key, now in new if key.value in KEYS])
        self.assertTrue({key for key, _ in changed} <= set(KEYS))
        # One stretch was replaced, and it holds no more than the value.
        self.assertEqual(after.count(f'"{NEW}"'), before.count(f'"{NEW}"') + 1)
        at = next(now for key, now in new if key.value in KEYS and now.value == NEW).start_mark
        self.assertEqual(after[: at.index], before[: at.index])
        self.assertTrue(before.endswith(after[at.index + len(NEW) + 2 :]))

    @given(MAPPINGS, st.booleans() | st.none(), st.booleans(), st.sampled_from(["\n", "\r\n"]))
    def test_generated(
        self, values: dict[str, object], flow: bool | None, ascii_only: bool, end: str
    ) -> None:
        """A file that was written by a program is changed in this value alone, or refused."""
        self.check(
            yaml.safe_dump(
                values,
                default_flow_style=flow,
                allow_unicode=not ascii_only,
                line_break=end,
                sort_keys=False,
            )
        )

    @given(st.lists(LINES, max_size=6), st.sampled_from(["\n", "\r\n", "\r"]))
    def test_written_by_hand(self, lines: list[str], end: str) -> None:
        """A file made of odd lines is changed in this value alone, or refused."""
        self.check(end.join(lines))

    @given(st.text())
    def test_any_text(self, text: str) -> None:
        """No text gives another exception than CannotEdit."""
        self.check(text)
        self.check(f"token: old\n{text}")
