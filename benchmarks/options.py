"""What the command line asks for."""

from __future__ import annotations

from attrs import frozen


@frozen
class Options:
    """
    `minutes` is the length of the idle part and of the history; `quick` asks for fewer, shorter
    measurements. `seed` is that of the history, None for any.
    """

    minutes: float = 5.0
    quick: bool = False
    seed: int | None = None
