"""What the agent knows of itself, as a value."""

from __future__ import annotations

from attrs import frozen


@frozen
class Status:
    """
    The agent now.

    `door` is the way the reports go: "websocket", "http", "pull", or "connecting" while none is
    open. `mode` is the configured one.
    """

    version: str
    mode: str
    door: str

    @property
    def well(self) -> bool:
        """Tell whether the master gets what it should, by any way that reaches it."""
        return self.door in ("websocket", "http") or self.mode == "pull"
