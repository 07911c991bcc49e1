"""The checker on real servers: clean where nothing is wrong, and red for every row we break."""

from __future__ import annotations

from dataclasses import dataclass, replace
from uuid import UUID, uuid4

import asyncpg
import pytest

from eventsource.testing import (
    Attempt,
    CheckReport,
    Outcome,
    StoreAddress,
    check_moved,
    check_unmoved,
    read_rows,
)

# No constraints: what they would forbid is what a checker has to see. The column of its own type
# and the odd names are there because the checker must read any table, not only the product's.
_TABLE = """
create table "odd ""events" (
    global_position bigint, event_id uuid, aggregate_id uuid, aggregate_type text,
    tenant_id uuid, version bigint, at timestamptz, "pay load" jsonb, amount numeric,
    note text, transaction_id xid8 default pg_current_xact_id()
)
"""
_CONTROL = """
create table tenant_migrations (
    id uuid, tenant_id uuid, state text, source_store_id text, target_store_id text,
    position_offset bigint, fence_position bigint, config jsonb
);
create table tenant_routing (tenant_id uuid, store_id text, migration_state text);
create table migration_position_mappings (
    migration_id uuid, source_position bigint, target_position bigint, event_id uuid
)
"""
_EVENT = """
insert into "odd ""events" values
    ($1, $2, $3, 'Ledger', $4, $5, '2024-02-29 12:00:00.123456+05', '{"a": 1.00}', 1.0, null)
"""
OFFSET = 1000


@dataclass
class Moved:
    """A tenant whose three events were carried, and whose fourth was written at the target."""

    source: StoreAddress
    target: StoreAddress
    control: str
    tenant: UUID
    migration: UUID
    attempts: list[Attempt]

    async def check(self) -> CheckReport:
        return await check_moved(
            source=self.source,
            target=self.target,
            control_dsn=self.control,
            tenant_id=self.tenant,
            migration_id=self.migration,
            attempts=self.attempts,
        )


async def _execute(dsn: str, statement: str, *arguments: object) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(statement, *arguments)
    finally:
        await connection.close()


@pytest.fixture
async def moved(source_dsn: str, target_dsn: str, control_dsn: str) -> Moved:
    tenant, migration, stream = uuid4(), uuid4(), uuid4()
    table = 'odd "events'
    source, target = StoreAddress(source_dsn, table), StoreAddress(target_dsn, table)
    await _execute(source_dsn, _TABLE)
    await _execute(target_dsn, _TABLE)
    await _execute(control_dsn, _CONTROL)
    attempts = []
    for number in range(1, 5):
        event = uuid4()
        if number < 4:
            await _execute(source_dsn, _EVENT, number, event, stream, tenant, number)
            await _execute(
                control_dsn,
                "insert into migration_position_mappings values ($1, $2, $3, $4)",
                migration,
                number,
                number + OFFSET,
                event,
            )
        await _execute(target_dsn, _EVENT, number + OFFSET, event, stream, tenant, number)
        answer = Attempt(
            writer="w",
            task=0,
            tenant_id=str(tenant),
            aggregate_type="Ledger",
            aggregate_id=str(stream),
            expected_version=number - 1,
            event_ids=(str(event),),
            path="router",
            invoked_at=float(number),
            outcome=Outcome.OK,
            returned_at=number + 0.5,
            new_version=number,
            global_position=number if number < 4 else number + OFFSET,
        )
        attempts.append(answer)
    await _execute(
        control_dsn,
        "insert into tenant_migrations values ($1, $2, 'migrated', 'a', 'b', $3, 3)",
        migration,
        tenant,
        OFFSET,
    )
    await _execute(control_dsn, "insert into tenant_routing values ($1, 'b', 'normal')", tenant)
    # Another tenant's row is nobody's business.
    await _execute(source_dsn, _EVENT, 7, uuid4(), uuid4(), uuid4(), 9)
    return Moved(source, target, control_dsn, tenant, migration, attempts)


async def test_a_faultless_move_is_clean_and_counted(moved: Moved) -> None:
    report = await moved.check()
    report.assert_clean()
    assert (report.source_rows, report.target_rows, report.mapping_rows) == (3, 4, 3)
    assert (report.acknowledged, report.found, report.lost) == (4, 4, 0)
    assert (report.carried, report.written_at_target, report.streams) == (3, 1, 1)


@pytest.mark.parametrize(
    ("where", "statement", "expected"),
    [
        ("target", "delete from {t} where version = 2", "I1 lost"),
        ("target", "delete from {t} where version = 2", "I7 left_behind"),
        ("target", "insert into {t} select * from {t} where version = 2", "I1 duplicated"),
        ("target", "update {t} set tenant_id = gen_random_uuid() where version = 3", "I1 lost"),
        ("target", "update {t} set version = 9 where version = 3", "I3 version_gap"),
        ("target", "update {t} set event_id = gen_random_uuid() where version = 3", "I2 unattempt"),
        ("target", "update {t} set amount = 1.00 where version = 1", "I4 content_differs"),
        ("target", "update {t} set note = '' where version = 1", "I4 content_differs"),
        ("target", "update {t} set note = 'NULL' where version = 1", "I4 content_differs"),
        ("target", "update {t} set at = at + '1 us' where version = 1", "I4 content_differs"),
        (
            "target",
            """update {t} set "pay load" = '{{"a": 1.0}}' where version = 1""",
            "I4 content_differs",
        ),
        (
            "target",
            "update {t} set global_position = 2001 where version = 2",
            "I4 position_not_carried",
        ),
        (
            "target",
            "update {t} set global_position = 990 where version = 4",
            "I7 before_the_decision",
        ),
        ("target", "alter table {t} drop column note", "I4 column_missing"),
        ("source", "update {t} set global_position = 4 where version = 3", "I7 after_the_decision"),
        ("control", "delete from migration_position_mappings", "I5 not_mapped"),
        (
            "control",
            "update migration_position_mappings set target_position = 1 where source_position = 1",
            "I5 mapped_wrongly",
        ),
        ("control", "update tenant_migrations set state = 'dual_write'", "I7 not_migrated"),
        ("control", "update tenant_migrations set fence_position = null", "I7 no_decision"),
        ("control", "delete from tenant_migrations", "I7 no_migration"),
        (
            "control",
            """update tenant_migrations set config = '{{"position_mapping": "offset"}}'""",
            "I5 mapped_besides",
        ),
        ("control", "update tenant_routing set store_id = 'a'", "I7 wrong_route"),
        ("control", "delete from tenant_routing", "I7 wrong_route"),
    ],
)
async def test_every_broken_row_is_found(
    moved: Moved, where: str, statement: str, expected: str
) -> None:
    dsn = {"source": moved.source.dsn, "target": moved.target.dsn, "control": moved.control}[where]
    await _execute(dsn, statement.format(t='"odd ""events"'))
    report = await moved.check()
    assert not report.is_clean
    with pytest.raises(AssertionError, match=expected):
        report.assert_clean()


async def test_an_offset_stands_for_every_row_or_it_is_found(moved: Moved) -> None:
    await _execute(
        moved.control,
        "delete from migration_position_mappings; update tenant_migrations"
        " set config = jsonb_build_object('position_mapping', 'offset')",
    )
    (await moved.check()).assert_clean()
    await _execute(
        moved.target.dsn,
        'update "odd ""events" set global_position = global_position + 1 where version = 3',
    )
    with pytest.raises(AssertionError, match="I5 mapped_wrongly"):
        (await moved.check()).assert_clean()


async def test_a_bystander_whose_rows_changed_or_who_waited_is_found(moved: Moved) -> None:
    baseline = await read_rows(moved.source, moved.tenant)
    attempts = moved.attempts[:3]

    async def kinds(answers: list[Attempt], longest: float | None = None) -> set[str]:
        report = await check_unmoved(
            store=moved.source,
            tenant_id=moved.tenant,
            attempts=answers,
            baseline=baseline,
            longest_append_seconds=longest,
        )
        return {f"{invariant} {kind}" for invariant, kind in report.kinds}

    assert await kinds(attempts, 0.6) == set()
    assert await kinds(attempts, 0.4) == {"I8 delayed_append"}
    other = attempts[0].aggregate_id
    failed = replace(
        attempts[0], outcome=Outcome.REFUSED, error="WritePausedError: x", event_ids=(other,)
    )
    assert await kinds([*attempts, failed], 0.6) == {"I8 failed_append"}
    conflict = replace(failed, error="OptimisticLockError: x")
    assert await kinds([*attempts, conflict], 0.6) == set()
    await _execute(moved.source.dsn, 'update "odd ""events" set note = \'x\' where version = 1')
    assert await kinds(attempts) == {"I4 content_changed"}


async def test_rows_that_an_aborted_migration_left_behind_are_found(moved: Moved) -> None:
    report = await check_unmoved(
        store=moved.source,
        tenant_id=moved.tenant,
        attempts=moved.attempts[:3],
        elsewhere=[moved.target],
    )
    assert report.kinds == {("I8", "stray_row"): 4}
