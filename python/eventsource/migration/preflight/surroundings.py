"""What lies around a move: nothing here refuses, but it is better known before the night."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventsource.catalog import reading
from eventsource.catalog.findings import warning
from eventsource.migration.event_table import AnyTable
from eventsource.migration.preflight.control import CONTROL_COLUMNS

if TYPE_CHECKING:
    from eventsource.migration.preflight.findings import Findings

#: A transaction that is open for as long as this is named: guard and fence wait for writers (s).
OLD_SECONDS = 60

#: Connections that a driver holds at the target beside those that copy.
DRIVERS_OWN = 4

_OPEN = """
select count(*) filter (where old) as old, max(age) as oldest from (
    select extract(epoch from now() - xact_start)::float8 as age,
           xact_start < now() - make_interval(secs => $1) as old
    from pg_stat_activity
    where datname = current_database() and xact_start is not null and pid <> pg_backend_pid()
      and backend_type = 'client backend'
) as open
"""

_PREPARED = """
select gid, extract(epoch from now() - prepared)::float8 as age from pg_prepared_xacts
where database = current_database() order by prepared limit 3
"""

_FREE = """
select current_setting('max_connections')::integer
       - current_setting('superuser_reserved_connections')::integer
       - (select count(*) from pg_stat_activity where backend_type = 'client backend')::integer
"""


async def look(
    source: AnyTable,
    target: AnyTable,
    copy_jobs: int,
    findings: Findings,
    *,
    companions: bool = True,
) -> None:
    """Note companions, old transactions and too few connections."""
    if companions:
        await _companions(source, findings)
    for side, table in (("source", source), ("target", target)):
        await _transactions(table, side, findings)
    free = await target.connection.fetchval(_FREE)
    needed = copy_jobs + DRIVERS_OWN
    findings.connections = (needed, free)
    if free < needed:
        findings.note(
            warning(
                "connections", "target",
                f"the target's server has {free} connections free, and the copy takes {needed}",
                "raise max_connections, or set copy_jobs lower",
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


async def _transactions(table: AnyTable, side: str, findings: Findings) -> None:
    seen = await table.connection.fetchrow(_OPEN, float(OLD_SECONDS))
    if seen["old"]:
        findings.note(
            warning(
                "old-transactions", side,
                f"{seen['old']} transactions of the {side} have been open for more than"
                f" {OLD_SECONDS} s, the oldest for {seen['oldest']:.0f} s: guard and cutover wait"
                " for those that have written events",
                "see pg_stat_activity, and end what nobody needs",
            )
        )  # fmt: skip
    for row in await table.connection.fetch(_PREPARED):
        findings.note(
            warning(
                "prepared-transactions", side,
                f"the transaction {row['gid']!r} of the {side} has been prepared for"
                f" {row['age']:.0f} s and is not ended",
                "commit prepared, or rollback prepared",
            )
        )  # fmt: skip
