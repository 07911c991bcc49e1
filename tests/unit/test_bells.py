"""The bells of a router that is closed while somebody still appends."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from eventsource.migration.routing import bells as module
from eventsource.migration.routing.bells import Bells
from eventsource.stores.postgresql import PostgreSQLEventStore


async def test_they_can_be_closed_while_another_store_is_appended_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def announce(_: object) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            bells.ring("b", _store())

    monkeypatch.setattr(module._Bell, "_announce", announce)
    bells = Bells()
    bells.ring("a", _store())
    await asyncio.sleep(0)
    await bells.close()


def _store() -> PostgreSQLEventStore:
    nowhere: Any = None
    return PostgreSQLEventStore(nowhere)
