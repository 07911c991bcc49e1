"""What a driver hears reaches the calls that wait for its migration, and nobody else."""

from __future__ import annotations

import asyncio
import time
from uuid import uuid4

from eventsource.migration.driver.news import News, wait


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


def test_the_end_of_a_driver_is_news() -> None:
    news, ours = News(), uuid4()
    with news.of(ours) as call:
        with news.driven(ours):
            assert news.is_driven(ours)
            assert not call.news.is_set()
        assert not news.is_driven(ours)
        assert call.news.is_set()
