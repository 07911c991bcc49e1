"""Which appends a router takes for those of a cutover."""

from __future__ import annotations

import asyncio
import time
from uuid import UUID, uuid4

import asyncpg
import pytest

from eventsource.migration.models import TenantRouting
from eventsource.migration.repositories import PostgreSQLRoutingRepository
from eventsource.migration.routing import longest
from eventsource.migration.routing.longest import LongestAppends
from eventsource.migration.states import TenantMigrationState as State
from tests.support.waiting import until

TENANT, MOVE, RETURN = uuid4(), uuid4(), uuid4()


class Reports:
    """Stands for the control database: it keeps what it is sent."""

    def __init__(self) -> None:
        self.sent: list[tuple[UUID, str, float]] = []
        self.fails = False

    async def execute(self, query: str, *args: object) -> str:
        if self.fails:
            raise asyncpg.UndefinedColumnError("longest_append_ms")
        migration, router, milliseconds = args
        assert isinstance(migration, UUID)
        assert isinstance(milliseconds, float)
        self.sent.append((migration, str(router), milliseconds))
        return "INSERT 0 1"

    def of(self, migration: UUID) -> float | None:
        """Seconds."""
        found = [sent[2] / 1000 for sent in self.sent if sent[0] == migration]
        assert len(found) <= 1
        return found[0] if found else None


@pytest.fixture
def reports() -> Reports:
    return Reports()


@pytest.fixture
def router(reports: Reports) -> LongestAppends:
    return LongestAppends("web-1", PostgreSQLRoutingRepository(reports))  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(longest, "SETTLED", 0.05)


def route(state: State, store: str = "shared", migration: UUID | None = MOVE) -> TenantRouting:
    return TenantRouting(TENANT, store, state, None, 1, migration)


AT_HOME = route(State.NORMAL, migration=None)
COPIED = route(State.DUAL_WRITE)
FENCED = route(State.CUTOVER_PAUSED)
MOVED = route(State.NORMAL, "dedicated")


async def settled(router: LongestAppends) -> None:
    async def said() -> bool:
        return not router._reporting

    await until(said, "what the router says")


def heard(router: LongestAppends, *routes: TenantRouting) -> None:
    for each in routes:
        router.route_changed(each)


def took(router: LongestAppends, seconds: float) -> None:
    router.appended(TENANT, time.monotonic() - seconds)


async def test_it_is_the_longest_that_ends_from_the_fence_until_the_tenant_has_settled(
    router: LongestAppends, reports: Reports
) -> None:
    heard(router, AT_HOME, COPIED)
    took(router, 60)
    heard(router, FENCED)
    took(router, 1)
    heard(router, MOVED)
    took(router, 2)
    took(router, 1.5)
    router.appended(uuid4(), time.monotonic() - 30)
    await settled(router)
    took(router, 90)
    heard(router, route(State.NORMAL, "dedicated"))
    await router.close()
    assert [(migration, name) for migration, name, _ in reports.sent] == [(MOVE, "web-1")]
    assert reports.of(MOVE) == pytest.approx(2, abs=0.5)


async def test_a_fence_that_nobody_has_heard_of_is_known_by_the_move(
    router: LongestAppends, reports: Reports
) -> None:
    heard(router, AT_HOME, MOVED)
    took(router, 3)
    await settled(router)
    assert reports.of(MOVE) == pytest.approx(3, abs=0.5)


@pytest.mark.parametrize("after", [COPIED, AT_HOME], ids=["still on its way", "aborted"])
async def test_a_fence_that_opens_again_leaves_nothing(
    router: LongestAppends, reports: Reports, after: TenantRouting
) -> None:
    heard(router, COPIED, FENCED)
    took(router, 20)
    heard(router, after)
    took(router, 30)
    heard(router, FENCED)
    took(router, 1)
    heard(router, MOVED)
    await settled(router)
    assert reports.of(MOVE) == pytest.approx(1, abs=0.5)


async def test_a_tenant_that_moved_before_it_was_appended_for_is_none_that_moves(
    router: LongestAppends, reports: Reports
) -> None:
    heard(router, MOVED)
    took(router, 5)
    await router.close()
    assert reports.sent == []


async def test_a_router_that_has_appended_nothing_meanwhile_says_nothing(
    router: LongestAppends, reports: Reports
) -> None:
    heard(router, AT_HOME, FENCED, MOVED)
    await settled(router)
    assert reports.sent == []


async def test_a_return_that_follows_at_once_is_measured_by_itself(
    router: LongestAppends, reports: Reports
) -> None:
    heard(router, AT_HOME, FENCED, MOVED)
    took(router, 2)
    heard(router, route(State.CUTOVER_PAUSED, "dedicated", RETURN))
    took(router, 4)
    heard(router, route(State.NORMAL, "shared", RETURN))
    await settled(router)
    assert reports.of(MOVE) == pytest.approx(2, abs=0.5)
    assert reports.of(RETURN) == pytest.approx(4, abs=0.5)


async def test_a_router_that_is_closed_says_it_at_once(
    router: LongestAppends, reports: Reports, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(longest, "SETTLED", 3600)
    heard(router, AT_HOME, FENCED, MOVED)
    took(router, 2)
    await asyncio.wait_for(router.close(), 5)
    assert reports.of(MOVE) == pytest.approx(2, abs=0.5)


@pytest.mark.parametrize("closed", [False, True])
async def test_a_control_database_that_cannot_take_it_disturbs_nobody(
    router: LongestAppends, reports: Reports, closed: bool
) -> None:
    reports.fails = True
    heard(router, AT_HOME, FENCED, MOVED)
    took(router, 2)
    if not closed:
        await settled(router)
    await router.close()
    assert reports.sent == []
