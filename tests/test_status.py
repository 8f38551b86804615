"""Tests of what the agent says of itself."""

from __future__ import annotations

from attrs.exceptions import FrozenInstanceError
from twisted.trial.unittest import SynchronousTestCase

from mmwagent.status import Status

MODES = ("auto", "websocket", "http", "pull")
DOORS = ("websocket", "http", "pull", "connecting")


class StatusTests(SynchronousTestCase):
    """When the agent is well."""

    def test_well(self) -> None:
        """It is well while reports go out by either way, and always when it is to be pulled."""
        well = {
            (mode, door)
            for mode in MODES
            for door in DOORS
            if Status("1", mode, door).well is True
        }
        reporting = {(mode, door) for mode in MODES for door in ("websocket", "http")}
        pulled = {("pull", "pull"), ("pull", "connecting")}
        self.assertEqual(well, reporting | pulled)

    def test_fallen_back_to_pull(self) -> None:
        """An agent that was to report and can only hope to be pulled is not well."""
        self.assertIs(Status("1", "auto", "pull").well, False)

    def test_is_a_value(self) -> None:
        """Two of the same content are equal, and none can be changed."""
        status = Status("1", "auto", "http")
        self.assertEqual(status, Status("1", "auto", "http"))
        with self.assertRaises(FrozenInstanceError):
            status.door = "pull"  # type: ignore[misc]
