"""Reading what a request brings."""

from __future__ import annotations

import json
from typing import Any

from twisted.web.http import Request

from mmwagent.manage.errors import ApiError


def json_object(request: Request) -> dict[str, Any]:
    """Return the JSON object in the body of `request`. Raises ApiError 400 for anything else."""
    content = request.content
    data = content.read() if content is not None else b""
    try:
        value = json.loads(data, parse_constant=_refuse_constant)
    except RecursionError:
        raise ApiError(400, "the body is nested too deeply") from None
    except ValueError as problem:
        raise ApiError(400, f"the body is no JSON: {problem}") from None
    if not isinstance(value, dict):
        raise ApiError(400, "the body must be a JSON object")
    return value


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")
