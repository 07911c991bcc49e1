"""The row of a way back, as the fences have it."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import uuid4

from eventsource.migration.connections.driver_connections import close_all, open_table
from eventsource.migration.errors import MigrationError
from eventsource.migration.event_table import of_store
from eventsource.migration.repositories import restored
from eventsource.migration.repositories.positions import PostgreSQLPositionMappingRepository
from eventsource.migration.steps import decision, mapping, way_back
from eventsource.migration.tables import progress, standby

if TYPE_CHECKING:
    from collections.abc import Mapping

    from eventsource.migration.recovery.judged import KeptWay
    from eventsource.migration.repositories.migrations import PostgreSQLMigrationRepository
    from eventsource.stores.postgresql import PostgreSQLEventStore


async def write(
    stores: Mapping[str, PostgreSQLEventStore],
    migrations: PostgreSQLMigrationRepository,
    step: KeptWay,
    keep_seconds: float,
    operator: str | None,
) -> None:
    """Write it; one by which the tenant may return again knows its positions first.

    Args:
        keep_seconds: for how long it is kept where its move does not say.

    Raises:
        MigrationError: a return that was under way has decided meanwhile.
    """
    if step.state == "standby" and step.home is not None and step.old is not None:
        home, old = [await of_store(stores[each]) for each in (step.home, step.old)]
        if step.woken:
            await _rest(stores, migrations, step)
        at = await progress.read(old, step.way_id)
        if at is not None:
            mapped = PostgreSQLPositionMappingRepository(migrations.pool)
            await mapping.of_way_back(mapped, at, home, old, step.move)
    await restored.write_way_back(
        migrations.pool, step.way_id, step.move, step.tenant_id, step.generation, step.state,
        step.reason, keep_seconds, operator,
    )  # fmt: skip


async def _rest(
    stores: Mapping[str, PostgreSQLEventStore],
    migrations: PostgreSQLMigrationRepository,
    step: KeptWay,
) -> None:
    """A return had begun, and nobody knows of it any more: the way back only stands by again.

    Its driver may be frozen. Without the progress row it carries no last pass, and so decides
    nothing.
    """
    assert step.home is not None
    assert step.old is not None
    opened = []
    try:
        for store_id in (step.home, step.old):
            opened.append(await open_table(await stores[store_id].address()))
        home, old = opened
        owner = uuid4()
        await progress.claim(old, step.way_id, owner)
        move = await migrations.get(step.move)
        if await decision.find(home, way_back.opposite(move, step.way_id, owner)) is not None:
            raise MigrationError(
                f"the return of migration {step.move} was decided a moment ago: repair again"
            )
        await standby.rest(old, step.way_id)
    finally:
        await close_all([table.connection for table in opened])
