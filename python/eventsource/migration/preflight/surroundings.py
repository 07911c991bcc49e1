"""What lies around a move: nothing here refuses, but it is better known before the night."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventsource.catalog import reading
from eventsource.catalog.findings import warning
from eventsource.counts import counted
from eventsource.migration.connections import blockers, room
from eventsource.migration.event_table import AnyTable, held
from eventsource.migration.preflight.control import CONTROL_COLUMNS
from eventsource.migration.preflight.findings import at_once

if TYPE_CHECKING:
    from eventsource.migration.preflight.findings import Findings

#: A transaction that is open for so long is named: guard and fence wait for writers (seconds).
SEEN_SECONDS = 3

#: One that is open for as long as this is worth a warning (seconds).
OLD_SECONDS = 60

#: Connections that a driver holds at the target beside those that copy.
DRIVERS_OWN = 4

_PREPARED = """
select gid, extract(epoch from now() - prepared)::float8 as age from pg_prepared_xacts
where database = current_database() order by prepared limit 3
"""

_SUBSCRIPTIONS = """
select string_agg(distinct quote_ident(s.subname), ', ') from pg_subscription_rel r
join pg_subscription s on s.oid = r.srsubid
where s.subenabled and r.srrelid in (
    select t.relid from unnest($1::text[]) name, pg_partition_tree(to_regclass(name)) t
    union all select to_regclass(name) from unnest($1::text[]) name)
"""

#: What a row of the tenant's meets that a subscription brings, by side.
_REFUSED_FROM = {"source": "once the tenant has moved", "target": "until the tenant is open there"}


async def look(
    source: AnyTable,
    target: AnyTable,
    copy_jobs: int,
    findings: Findings,
    *,
    companions: bool = True,
) -> None:
    """Note companions, subscriptions, open transactions and too few connections."""

    async def of_source(found: Findings) -> None:
        async with held(source) as one:
            if companions:
                await _companions(one, found)
            await _subscriptions(one, "source", found)
            await _transactions(one, "source", found)

    async def of_target(found: Findings) -> None:
        async with held(target) as one:
            await _subscriptions(one, "target", found)
            await _transactions(one, "target", found)
            await _connections(one, copy_jobs + DRIVERS_OWN, found)

    await at_once(findings, of_source, of_target)


async def _connections(target: AnyTable, needed: int, findings: Findings) -> None:
    free = (await room.of_server(target.connection)).free
    findings.connections = (needed, free)
    if free < needed:
        findings.note(
            warning(
                "connections", "target",
                f"the target's server has {counted(free, 'connection')} free for this role,"
                f" and the copy takes {needed}",
                "raise max_connections, or the connection limit of the role or the database, or"
                " set copy_jobs lower",
            )
        )  # fmt: skip


async def _companions(source: AnyTable, findings: Findings) -> None:
    beside = await reading.companions(
        source.connection, source.name, (*CONTROL_COLUMNS, "subscription_checkpoints")
    )
    findings.companions = tuple(name for name, _ in beside)
    for name, points_here in beside:
        if points_here:
            findings.note(
                warning(
                    "companion", "source",
                    f"{name} has a foreign key to the events of the source; its rows stay there",
                )
            )  # fmt: skip


async def _subscriptions(table: AnyTable, side: str, findings: Findings) -> None:
    """A worker that is refused one row tries it again and again, and brings no other meanwhile."""
    layout = table.layout
    names = [table.name] if layout is None else [table.beside(each.name) for each in layout.tables]
    found = await table.connection.fetchval(_SUBSCRIPTIONS, names)
    if found is not None:
        findings.note(
            warning(
                "subscribed", side,
                f"the {side}'s tables are written by a subscription ({found}), which stops for all"
                f" tenants at the first row of this one that it brings {_REFUSED_FROM[side]}",
                "leave the tenant out of its publication before that (a row filter)",
            )
        )  # fmt: skip


async def _transactions(table: AnyTable, side: str, findings: Findings) -> None:
    found = await blockers.of_database(table.connection, SEEN_SECONDS)
    if found:
        old = found[0].age_seconds >= OLD_SECONDS
        said = (
            f"open at the {side} for a while: {'; '.join(map(str, found))}: guard and cutover wait"
            " for those that have written events"
        )
        if old:
            findings.note(warning("old-transactions", side, said, "end what nobody needs"))
        else:
            findings.remarks.append(said)
    for row in await table.connection.fetch(_PREPARED):
        findings.note(
            warning(
                "prepared-transactions", side,
                f"the transaction {row['gid']!r} of the {side} has been prepared for"
                f" {row['age']:.0f} s and is not ended",
                "commit prepared, or rollback prepared",
            )
        )  # fmt: skip
