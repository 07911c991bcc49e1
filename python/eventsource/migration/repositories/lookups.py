"""What people ask of the journal: ids by their first characters, who began what, and counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

from eventsource.retried import Retried

if TYPE_CHECKING:
    from eventsource.connections import Executor


async def ids_beginning_with(pool: Executor, prefix: str, limit: int = 10) -> list[UUID]:
    """Migrations whose id begins so, newest first."""
    rows = await Retried(pool).fetch(
        "select id from tenant_migrations where starts_with(id::text, $1)"
        " order by created_at desc, id limit $2",
        prefix.lower(), limit,
    )  # fmt: skip
    return [row["id"] for row in rows]


async def operators_of(pool: Executor, migration_ids: Sequence[UUID]) -> dict[UUID, str]:
    """Who started each of the migrations, as far as it is known."""
    rows = await Retried(pool).fetch(
        "select migration_id, operator from migration_audit_log"
        " where event_type = 'state:pending' and operator is not null"
        " and migration_id = any ($1::uuid[]) order by id desc",
        list(migration_ids),
    )
    return {row["migration_id"]: row["operator"] for row in rows}


@dataclass(frozen=True, slots=True)
class Totals:
    """Of all migrations that the journal knows.

    Attributes:
        states: how many migrations are in each state.
        outcomes: how many cutovers ended so; ``ok``, or the code of an error.
        pauses: for each bound (seconds) how many fences were held no longer.
        pause_count, pause_sum: all of them, and their seconds.
    """

    states: Mapping[str, int]
    outcomes: Mapping[str, int]
    pauses: Mapping[float, int]
    pause_count: int
    pause_sum: float


async def totals(pool: Executor, bounds: Sequence[float]) -> Totals:
    """Counts over the whole journal, for metrics; ``bounds`` are of the pauses (seconds)."""
    ask = Retried(pool).fetch
    states = await ask("select state, count(*) as n from tenant_migrations group by state")
    outcomes = await ask(
        "select details->>'code' as code, count(*) as n from migration_audit_log"
        " where event_type = 'cutover_answered' group by 1"
    )
    pauses = await ask(
        "select b.bound, count(m.id) as n from unnest($1::float8[]) as b(bound)"
        " left join tenant_migrations m on m.cutover_pause_ms <= b.bound * 1000 group by b.bound",
        list(bounds),
    )
    (whole,) = await ask(
        "select count(cutover_pause_ms) as n, coalesce(sum(cutover_pause_ms), 0) / 1000 as seconds"
        " from tenant_migrations"
    )
    return Totals(
        {row["state"]: row["n"] for row in states},
        {row["code"]: row["n"] for row in outcomes},
        {row["bound"]: row["n"] for row in pauses},
        whole["n"],
        float(whole["seconds"]),
    )
