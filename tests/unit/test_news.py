"""What a driver hears reaches the calls that wait for its migration, and nobody else."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast
from uuid import UUID, uuid4

from eventsource.migration.driver.news import News, wait

if TYPE_CHECKING:
    from eventsource.migration.models import Migration


def test_a_call_hears_of_its_own_migration_alone() -> None:
    news, ours, other = News(), uuid4(), uuid4()
    with news.of(ours) as first, news.of(ours) as second, news.of(other) as third:
        news.heard(ours)
        assert first.news.is_set()
        assert second.news.is_set()
        assert not third.news.is_set()
    news.heard(ours)


def test_what_is_heard_between_two_looks_is_not_missed() -> None:
    news, ours = News(), uuid4()
    with news.of(ours) as call:
        call.news.clear()
        # Here the call reads the journal.
        news.heard(ours)
        began = time.monotonic()
        asyncio.run(wait(call.news, 60))
        assert time.monotonic() - began < 30


def row(migration_id: UUID) -> Migration:
    """Of the journal, as far as news are concerned with it."""
    return cast("Migration", SimpleNamespace(id=migration_id))


def test_a_call_is_given_the_row_that_was_read_since_it_has_written() -> None:
    """An older one would not show the cutover that it has asked for: it would ask again."""
    news, latest = News(), row(uuid4())
    with news.of(latest.id) as call:
        before = time.monotonic()
        call.expect()
        news.read(latest, before - 1)
        assert call.news.is_set()
        assert call.take() is None
        call.expect()
        news.read(latest, time.monotonic())
        assert call.take() is latest
        assert call.take() is None
        news.read(latest, time.monotonic())
        assert call.take() is None, "the call has not said that it has written what it wanted to"


def test_a_row_that_was_read_before_the_driver_ended_is_not_the_last() -> None:
    news, latest = News(), row(uuid4())
    with news.of(latest.id) as call:
        call.expect()
        with news.driven(latest.id):
            news.read(latest, time.monotonic())
        assert call.news.is_set()
        assert call.take() is None


def test_the_end_of_a_driver_is_news() -> None:
    news, ours = News(), uuid4()
    with news.of(ours) as call:
        with news.driven(ours):
            assert news.is_driven(ours)
            assert not call.news.is_set()
        assert not news.is_driven(ours)
        assert call.news.is_set()
