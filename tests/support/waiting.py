"""Waiting for what other processes bring about: by looking, never by time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

Found = TypeVar("Found")


async def until(
    look: Callable[[], Awaitable[Found | None]], what: str, timeout: float = 30
) -> Found:
    """Look again and again until it is there; what was found."""
    deadline, rest = time.monotonic() + timeout, 0.01
    while True:
        found = await look()
        if found:
            return found
        assert time.monotonic() < deadline, f"waited {timeout:g} s for: {what}"
        await asyncio.sleep(rest)
        # Looking costs processor time that what is waited for could use.
        rest = min(rest * 1.25, 0.04)
