"""Many tenants, from several machines: waves, and what a queue calls to carry them."""

from __future__ import annotations

from eventsource.fleet.carrier import Carrier
from eventsource.fleet.repository import Share, WaveRepository
from eventsource.fleet.waves import (
    Candidate,
    NoRoomError,
    Outcome,
    OutsideWindowError,
    Wave,
    WaveError,
    WaveItem,
    WaveNotFoundError,
    WaveSettings,
    WaveState,
    WaveStoppedError,
)
from eventsource.fleet.windows import Window

__all__ = [
    "Candidate",
    "Carrier",
    "NoRoomError",
    "Outcome",
    "OutsideWindowError",
    "Share",
    "Wave",
    "WaveError",
    "WaveItem",
    "WaveNotFoundError",
    "WaveRepository",
    "WaveSettings",
    "WaveState",
    "WaveStoppedError",
    "Window",
]
