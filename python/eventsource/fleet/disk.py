"""What waves may bring to a server's disk, as far as it can be known.

How much of a disk is free PostgreSQL does not say. What it does say is how much lies in the
tablespace of a database; what may lie there is for the configuration to say (``max_disk``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

from eventsource.connections import in_a_sentence
from eventsource.fleet.waves import Candidate, NoRoomError, megabytes
from eventsource.migration.errors import RetryLaterError
from eventsource.migration.event_table import of_store
from eventsource.migration.failures import may_pass

if TYPE_CHECKING:
    from eventsource.fleet.repository import WaveRepository
    from eventsource.fleet.waves import WaveItem
    from eventsource.migration import MigrationCoordinator
    from eventsource.stores.postgresql import PostgreSQLEventStore
    from eventsource.tenant_ids import TenantId

#: What is assumed to lie beside each byte of rows: indexes.
INDEXES = 0.8

#: A smaller table says nothing of how large its indexes are (bytes).
ENOUGH = 1_000_000

#: After how long a tenant asks again for which there is no room yet.
AGAIN = timedelta(seconds=15)

# Every role may ask for the default tablespace of its database.
_USED = """
select pg_tablespace_size(dattablespace) from pg_database where datname = current_database()
"""

# All tables of the store with their indexes, beside the rows of its events; leaves for the parted.
_SHARE = """
select sum(pg_total_relation_size(t.oid))::float8 as whole,
       (sum(pg_table_size(t.oid)) filter (where t.place = 1))::float8 as rows
from (
    select coalesce(p.relid, n.name::regclass)::oid as oid, n.place
    from unnest($1::text[]) with ordinality n (name, place)
    left join lateral pg_partition_tree(n.name::regclass) p on p.isleaf
) t
"""


async def used(store: PostgreSQLEventStore) -> int:
    """What lies in the tablespace of the store's database, of whatever database (bytes)."""
    found: int = await store.pool.fetchval(_USED)
    return found


async def share(store: PostgreSQLEventStore) -> float:
    """What a byte of a tenant's events takes there with indexes and with other tables (bytes)."""
    table = await of_store(store)
    names = [table.name]
    if store.layout is not None:
        beside = (table.beside(each.name) for each in store.layout.tables)
        names += [name for name in beside if name != table.name]
    row = await store.pool.fetchrow(_SHARE, names)
    assert row is not None
    if not row["rows"] or row["rows"] < ENOUGH:
        return 1 + INDEXES
    return float(row["whole"] / row["rows"])


@dataclass(frozen=True, slots=True)
class Bounds:
    """What may lie on the disks of servers, and what lies there.

    Args:
        most: by group; one that is not named is not bounded (bytes).
        groups: of each store.
        stores: by id.
    """

    most: Mapping[str, int] = field(default_factory=dict)
    groups: Mapping[str, str] = field(default_factory=dict)
    stores: Mapping[str, PostgreSQLEventStore] = field(default_factory=dict)

    def of(self, store_id: str) -> int | None:
        """What may lie on the disk of this store; None is no bound."""
        return self.most.get(self.groups.get(store_id, store_id))

    async def wait_for(
        self, waves: WaveRepository, item: WaveItem, coordinator: MigrationCoordinator
    ) -> timedelta | None:
        """Whether there is room for a tenant whose move has not begun.

        Returns:
            None, or after how long to ask again: what is on its way there takes the room for now.

        Raises:
            NoRoomError: it does not fit, even if nothing else came.
            RetryLaterError: one of the stores cannot be asked now.
        """
        most = self.of(item.target_store_id)
        if most is None or item.source_store_id not in self.stores:
            return None  # of a store that this process does not know the move says so
        if await self._has_begun(item, coordinator):
            return None
        try:
            return await self._wait_for(waves, item, coordinator, most)
        except Exception as error:
            if not may_pass(error):
                raise
            raise RetryLaterError(
                f"the room at {item.target_store_id!r} cannot be asked for: {in_a_sentence(error)}"
            ) from error

    async def _wait_for(
        self, waves: WaveRepository, item: WaveItem, coordinator: MigrationCoordinator, most: int
    ) -> timedelta | None:
        size = item.bytes
        if size is None:
            found = await coordinator.tenants(item.source_store_id, only=[item.tenant_id])
            size = found[0].bytes if found else 0
            await waves.name_size(item, found[0].events if found else 0, size)
        by_byte = await share(self.stores[item.source_store_id])
        lies = await used(self.stores[item.target_store_id])
        brought = round(size * by_byte)
        if lies + brought > most:
            raise NoRoomError(item.target_store_id, lies, brought, most)
        group = self.groups[item.target_store_id]
        beside = [store for store, other in self.groups.items() if other == group]
        coming = await waves.arriving(item, beside, by_byte)
        if lies + coming + brought <= most:
            return None
        await waves.record_wait(
            item,
            NoRoomError.code,
            f"waiting for room in {item.target_store_id!r}: {megabytes(coming)} are on their way",
        )
        return AGAIN

    async def _has_begun(self, item: WaveItem, coordinator: MigrationCoordinator) -> bool:
        if item.migration_id is None:
            return False
        return not (await coordinator.get_migration(item.migration_id)).state.is_final


@dataclass(frozen=True, slots=True)
class Disks:
    """The disks of stores at a moment.

    Args:
        there: what lies at each target (bytes).
        shares: of each source, see :func:`share`.
    """

    bounds: Bounds = field(default_factory=Bounds)
    there: Mapping[str, int] = field(default_factory=dict)
    shares: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    async def seen(cls, candidates: Sequence[Candidate], bounds: Bounds) -> Disks:
        """As the stores of these tenants show them now."""
        return cls(
            bounds,
            {
                each: await used(bounds.stores[each])
                for each in sorted({each.target_store_id for each in candidates})
            },
            {
                each: await share(bounds.stores[each])
                for each in sorted({each.source_store_id for each in candidates})
            },
        )

    def brought_by(self, candidate: Candidate) -> int:
        """What a tenant takes at its target with indexes (bytes)."""
        by_byte = self.shares.get(candidate.source_store_id, 1 + INDEXES)
        return round((candidate.bytes or 0) * by_byte)

    def too_large(self, candidates: Sequence[Candidate]) -> dict[TenantId, str]:
        """Those for which there will be no room when it is their turn, and why."""
        problems: dict[TenantId, str] = {}
        coming: Counter[str] = Counter()
        for each in candidates:
            store_id, brought = each.target_store_id, self.brought_by(each)
            most = self.bounds.of(store_id)
            if most is None:
                continue
            group = self.bounds.groups[store_id]
            lies = self.there[store_id] + coming[group]
            if lies + brought > most:
                problems[each.tenant_id] = str(NoRoomError(store_id, lies, brought, most))
            else:
                coming[group] += brought
        return problems
