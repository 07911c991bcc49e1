"""A layout's store that has forgotten a decision hears of it again, as one of our own tables does.

What was appended there since is named by table and key: of rows that may change, nobody can say
which of two is the later one. So nothing is put over anything, and nothing is deleted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventsource.migration.connections.timeouts import LONG_STATEMENT_SECONDS
from eventsource.migration.journaled import carriage, numbers, only_there
from eventsource.migration.journaled.guards import Guarded
from eventsource.migration.journaled.shapes import of_one
from eventsource.migration.steps import authority
from eventsource.migration.tables import brief_locks, fences

if TYPE_CHECKING:
    from eventsource.migration.event_table import AnyTable, OwnTable
    from eventsource.migration.models import Migration
    from eventsource.migration.steps.authority import Departure


async def send_on(table: OwnTable, left: Departure) -> None:
    """As :func:`eventsource.migration.steps.authority.send_on`.

    The fence first, and then the guards, one table after the other: where there are some already
    they send writers on from the first moment, and where there are none, a writer meets the fence
    with the first of them.
    """
    assert table.layout is not None
    shape = await of_one(table, table.layout, left.tenant_id)
    head = left.source_head
    if head is None:
        head = (await numbers.given(table, shape)).get(table.layout.events, 0)
    total = await table.connection.fetchval(
        f"select count(*) from {shape.rows(table.layout.main, shape.source)} mine",
        timeout=LONG_STATEMENT_SECONDS,
    )

    async def write() -> None:
        await authority.write_fence(table, left, head, total)

    store = f"in store {left.store_id!r}"
    await brief_locks.transact(table.connection, write, what=f"for the tenant's fence {store}")
    fence = await fences.of_migration(table, left.migration_id, "source")
    assert fence is not None
    guarded = Guarded(table, table.layout)
    await guarded.each(guarded.renew, fence)


async def named(source: OwnTable, target: AnyTable, migration: Migration) -> list[str]:
    """The tenant's rows that only the source has, by table and key."""
    agreed = await carriage.read(target, migration.id)
    return [str(row) async for row in only_there.rows(source, target, migration.tenant_id, agreed)]


#: The tables of other libraries.
LAYOUT = authority.Kind(
    send_on,
    named,
    ("row there is", "rows there are"),
    "not where the tenant lives (written meanwhile, or deleted there since), and left as found;"
    " `eventsource-migrate repair --export PATH` names them by table and key",
)


def kind_of(table: AnyTable) -> authority.Kind:
    """How a store of such a table is sent on."""
    return authority.OWN if table.layout is None else LAYOUT
