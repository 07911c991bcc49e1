"""A target's fence row that somebody has removed, made again for the abort."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventsource.catalog.model import GUARD
from eventsource.migration.errors import MigrationError
from eventsource.migration.tables import fences

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventsource.migration.event_table import AnyTable, OwnTable
    from eventsource.migration.models import Migration

# The condition of a trigger that keeps others away names the migration. Where all of those are
# gone, too, others are left that no fence has.
_NUMBER = """
select own.number
from pg_trigger t, lateral (
    select substring(t.tgname from length($2) + 1 ) as rest
) named, lateral (
    select substring(named.rest from '^[0-9]+')::integer as number,
           strpos(pg_get_triggerdef(t.oid), $3) > 0 as is_named
) own
where t.tgrelid = any (select to_regclass(name) from unnest($1::text[]) name)
  and starts_with(t.tgname, $2) and own.number is not null
  and (own.is_named or not exists (select from {fences} f where f.fence_id = own.number))
order by own.is_named desc
limit 1
"""


async def make_again(
    source: AnyTable, target: OwnTable, migration: Migration, names: Sequence[str]
) -> bool:
    """With the number that the triggers on the tables of these ``names`` (quoted) go by.

    False where the tenant may live there: the source must say that nothing was decided, and have
    lost nothing, which the caller has looked at; and no other migration may have a fence in force.
    """
    leaving = await fences.of_migration(source, migration.id, "source")
    if leaving is None or leaving.state not in ("open", "aborting"):
        return False
    found = await target.connection.fetchval(
        _NUMBER.format(fences=target.fences), list(names), GUARD, str(migration.id)
    )
    try:
        await fences.raise_fence(
            target, tenant_id=migration.tenant_id, migration_id=migration.id,
            store_id=migration.target_store_id, role="target", generation=migration.generation,
            budget_seconds=migration.config.cutover_timeout_seconds,
            peer=migration.source_identity,
            number=found,
        )  # fmt: skip
    except MigrationError:
        return False
    return True
