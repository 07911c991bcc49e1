"""What refuses tenants of a wave, asked for all of them in a few statements."""

from __future__ import annotations

import asyncio
import itertools
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING
from uuid import UUID

from eventsource.fleet.waves import Candidate
from eventsource.migration.coordinator import PREFLIGHTS_AT_ONCE
from eventsource.migration.event_table import of_store
from eventsource.migration.journaled import tenants as layout_tenants
from eventsource.tenant_ids import TenantId, restored, stored

if TYPE_CHECKING:
    from eventsource.migration import MigrationCoordinator
    from eventsource.migration.repositories import PostgreSQLMigrationRepository
    from eventsource.stores.postgresql import PostgreSQLEventStore

_ACTIVE = """
select tenant_id, id, target_store_id, state from tenant_migrations
where tenant_id = any ($1::text[]) and (state not in ('migrated', 'rolled_back', 'failed')
      or state = 'failed' and created_at = (select max(created_at) from tenant_migrations o
                                            where o.tenant_id = tenant_migrations.tenant_id))
"""

_THERE = """
select tenant from unnest($1::uuid[]) as tenant
where exists (select from {table} where tenant_id = tenant)
"""


async def of_all(
    candidates: Sequence[Candidate],
    migrations: PostgreSQLMigrationRepository,
    stores: Mapping[str, PostgreSQLEventStore],
) -> dict[TenantId, str]:
    """A sentence for each tenant that its move would be refused for, as the journal and the targets
    show it. A tenant that is on its way to its target already is not among them."""
    problems: dict[TenantId, str] = {}
    wanted = {each.tenant_id: each for each in candidates}
    on_their_way = set()
    for row in await migrations.pool.fetch(_ACTIVE, [stored(each) for each in wanted]):
        tenant = restored(row["tenant_id"])
        if row["state"] == "failed":
            problems[tenant] = (
                f"its migration {row['id']} has failed; abort it, or resume it once it is mended"
            )
        elif row["target_store_id"] != wanted[tenant].target_store_id:
            problems[tenant] = (
                f"its migration {row['id']} takes it to {row['target_store_id']!r}; finish it or"
                " abort it"
            )
        else:
            on_their_way.add(tenant)
    for store_id, tenants in _by_target(candidates, on_their_way | set(problems)).items():
        for tenant in await _there(stores[store_id], tenants):
            problems[tenant] = (
                f"{store_id!r} already holds events of it; `eventsource-migrate plan` says more"
            )
    return problems


async def _there(store: PostgreSQLEventStore, tenants: Sequence[TenantId]) -> set[TenantId]:
    """Which of these the store has events of."""
    if store.layout is not None:
        return await layout_tenants.present(await of_store(store), tenants)
    asked = [each for each in tenants if isinstance(each, UUID)]
    rows = await store.pool.fetch(_THERE.format(table=store.table), asked)
    return {row["tenant"] for row in rows}


def _by_target(
    candidates: Sequence[Candidate], passed_over: set[TenantId]
) -> dict[str, list[TenantId]]:
    found: dict[str, list[TenantId]] = defaultdict(list)
    for each in candidates:
        if each.tenant_id not in passed_over:
            found[each.target_store_id].append(each.tenant_id)
    return found


async def of_each(
    candidates: Sequence[Candidate],
    coordinator: MigrationCoordinator,
    stores: Mapping[str, PostgreSQLEventStore],
    heard: Callable[[int], None] = lambda _: None,
) -> dict[TenantId, str]:
    """The whole preflight of each of these tenants, a few at a time; what refuses them.

    Args:
        heard: is called after each with how many are done.
    """
    problems: dict[TenantId, str] = {}
    waiting, done = iter(candidates), itertools.count(1)

    async def examine_on() -> None:
        for each in waiting:
            findings = await coordinator.preflight(
                each.tenant_id, stores[each.source_store_id], stores[each.target_store_id]
            )
            if findings.problems:
                problems[each.tenant_id] = "; ".join(findings.problems)
            heard(next(done))

    examining = [asyncio.ensure_future(examine_on()) for _ in range(PREFLIGHTS_AT_ONCE)]
    try:
        await asyncio.gather(*examining)
    finally:
        for task in examining:
            task.cancel()
    order = {each.tenant_id: at for at, each in enumerate(candidates)}
    return dict(sorted(problems.items(), key=lambda found: order[found[0]]))


def one_of_each_pair(candidates: Sequence[Candidate]) -> list[Candidate]:
    """One tenant for each source and target: what is wrong with the tables is the same for all."""
    pairs = {(each.source_store_id, each.target_store_id): each for each in reversed(candidates)}
    return list(pairs.values())
