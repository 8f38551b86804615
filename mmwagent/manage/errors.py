"""The one shape in which the management API says what is wrong."""

from __future__ import annotations

from collections.abc import Mapping


class ApiError(Exception):
    """
    A request that cannot be met: answered with `status` and {"success": false, "error": text}.

    The text says what is wrong, where, and what to do.
    """

    def __init__(self, status: int, error: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(error)
        self.status = status
        self.error = error
        self.headers = dict(headers or {})
