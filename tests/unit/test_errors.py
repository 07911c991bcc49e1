"""Errors cross processes: a pool of processes or a queue pickles what a task raises."""

from __future__ import annotations

import asyncio
import copy
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from uuid import UUID

import pytest

from eventsource.cli.files import OutputClosedError
from eventsource.dataplane import DataPlaneError
from eventsource.errors import (
    EventIdTakenError,
    EventSourceError,
    FeedBlockedError,
    HandlerError,
    OptimisticLockError,
    StreamTenantError,
    UnknownEventTypeError,
)
from eventsource.fleet import (
    NoRoomError,
    OutsideWindowError,
    WaveNotFoundError,
    WaveStoppedError,
    Window,
)
from eventsource.migration import errors

ONE, OTHER = UUID(int=1), UUID(int=2)
AT = datetime(2026, 11, 30, tzinfo=UTC)

#: How each error that takes more than its text is made.
MADE: list[Callable[[], EventSourceError]] = [
    lambda: OptimisticLockError(ONE, "Order", 3, 4),
    lambda: EventIdTakenError(ONE, "in another stream"),
    lambda: StreamTenantError(ONE, "Order", None, OTHER),
    lambda: UnknownEventTypeError("OrderPlaced"),
    lambda: FeedBlockedError(("pid 7",), 2.0),
    lambda: HandlerError("Revenue", "shared", ONE, 7),
    lambda: DataPlaneError("sql", "refused", {"sqlstate": "42501"}),
    lambda: errors.DeadlineReachedError(ONE, None),
    lambda: errors.MigrationPausedError(ONE),
    lambda: errors.MigrationAbortedError(ONE),
    lambda: errors.MigrationNotFoundError(ONE),
    lambda: errors.MigrationAlreadyExistsError("tenant", ONE),
    lambda: errors.InvalidStateTransitionError(ONE, "paused", "be cut over"),
    lambda: errors.PreflightError(["no table", "no role"], passes=True),
    lambda: errors.CutoverTimeoutError(5.0, 2, (errors.Blocker(7, "app", "active", 3.0),)),
    lambda: errors.RoutersNotReadyError(ONE, "a router may not write"),
    lambda: errors.ConsistencyError("they differ"),
    lambda: errors.ProtocolVersionError(ONE, 9),
    lambda: errors.WritePausedError(ONE, 7.0),
    lambda: OutputClosedError("cannot write there", Path("report.html")),
    lambda: WaveNotFoundError("night"),
    lambda: WaveStoppedError("night"),
    lambda: OutsideWindowError(Window.parse("22:00-05:00 UTC"), AT),
    lambda: NoRoomError("dedicated", 5, 6, 7),
]


def every_kind(of: type[EventSourceError] = EventSourceError) -> Iterator[type[EventSourceError]]:
    for kind in of.__subclasses__():
        yield kind
        yield from every_kind(kind)


def in_words(error: EventSourceError) -> tuple[object, ...]:
    return type(error), str(error), error.args, vars(error)


@pytest.mark.parametrize("make", MADE, ids=lambda make: type(make()).__name__)
def test_an_error_is_the_same_after_a_queue(make: Callable[[], EventSourceError]) -> None:
    error = make()
    error.add_note("of a night")
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert in_words(again) == in_words(error)


def test_none_that_takes_more_than_its_text_is_left_out() -> None:
    listed = {type(make()) for make in MADE}
    for kind in every_kind():
        own = any("__init__" in vars(each) for each in kind.__mro__[: -len(Exception.__mro__)])
        assert not own or kind in listed, f"{kind.__name__} is not made here"
        if not own:
            assert in_words(pickle.loads(pickle.dumps(kind("a text")))) == in_words(kind("a text"))


def fail(number: int) -> None:
    raise MADE[number]()


async def test_a_pool_of_processes_hands_them_on() -> None:
    loop = asyncio.get_running_loop()
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        for number, make in enumerate(MADE):
            with pytest.raises(type(make())) as caught:
                await loop.run_in_executor(pool, partial(fail, number))
            assert str(caught.value) == str(make())


@pytest.mark.parametrize("requested", ["be cleaned up", "return"])
@pytest.mark.parametrize("state", ["pending", "bulk_copy", "dual_write"])
def test_what_only_a_tenant_that_has_moved_can_do_waits_for_no_state_before(
    state: str, requested: str
) -> None:
    said = str(errors.InvalidStateTransitionError(ONE, state, requested))
    assert said.endswith(
        f"is {state} and cannot {requested}; wait until the tenant has moved:"
        f" `eventsource-migrate status {ONE} --watch`"
    )


@pytest.mark.parametrize("requested", ["cut over", "rehearse a cutover"])
def test_what_needs_the_copy_waits_for_it(requested: str) -> None:
    said = str(errors.InvalidStateTransitionError(ONE, "bulk_copy", requested))
    assert "wait until it is in dual_write: `" in said


def test_what_is_under_way_is_not_sent_to_wait_for_a_state_in_which_it_is_not_resumed() -> None:
    assert "wait" not in str(errors.InvalidStateTransitionError(ONE, "bulk_copy", "resume"))
