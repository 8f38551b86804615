"""Tests of reading what a request brings."""

from __future__ import annotations

import json
from io import BytesIO
from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mmwagent.manage.bodies import json_object
from mmwagent.manage.errors import ApiError


def request(body: bytes | None) -> Any:
    """Return a request with `body`, or with none at all."""
    return SimpleNamespace(content=None if body is None else BytesIO(body))


class JsonObjectTests(SynchronousTestCase):
    """A body is a JSON object, or it is refused."""

    def test_object(self) -> None:
        """An object is given as it is, in any of JSON's encodings."""
        value = {"domains": ["例え"], "timeout_ms": 5000, "more": {"a": [1.5, None, True]}}
        for encoding in ("utf-8", "utf-8-sig", "utf-16"):
            body = json.dumps(value, ensure_ascii=False).encode(encoding)
            self.assertEqual(json_object(request(body)), value)
        self.assertEqual(json_object(request(b" {} ")), {})

    def test_refused(self) -> None:
        """Everything else is a 400 that says what is wrong."""
        for body, words in (
            (None, "the body is no JSON"),
            (b"", "the body is no JSON"),
            (b"{", "the body is no JSON"),
            (b'{"a": 1} x', "the body is no JSON"),
            (b"domains=a", "the body is no JSON"),
            (b"\xff\xff\xff", "the body is no JSON"),
            (b'{"a": NaN}', "NaN is not JSON"),
            (b'{"a": -Infinity}', "-Infinity is not JSON"),
            (b'{"a": ' + b"1" * 5000 + b"}", "the body is no JSON"),
            (b"[" * 100_000, "nested too deeply"),
            (b"[]", "must be a JSON object"),
            (b"null", "must be a JSON object"),
            (b'"{}"', "must be a JSON object"),
            (b"5", "must be a JSON object"),
        ):
            with self.subTest(body=body and body[:20]):
                error = self.assertRaises(ApiError, json_object, request(body))
                self.assertEqual(error.status, 400)
                self.assertIn(words, error.error)

    @given(st.binary())
    def test_any_bytes(self, body: bytes) -> None:
        """No bytes give another exception."""
        try:
            self.assertIsInstance(json_object(request(body)), dict)
        except ApiError as error:
            self.assertEqual(error.status, 400)
