"""Events that are only where their tenant does not live: named, and put back where they fit."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from uuid import UUID

import asyncpg

from eventsource.identifiers import quote_identifier
from eventsource.migration.connections.timeouts import LONG_STATEMENT_SECONDS
from eventsource.migration.recovery.report import StrandedEvent
from eventsource.tenant_ids import TenantId

if TYPE_CHECKING:
    from eventsource.migration.event_table import AnyTable, OwnTable

#: Events that are looked for at once.
PORTION = 20_000

#: What a store gives an event itself.
_ITS_OWN = ("global_position", "transaction_id")


async def only_in(
    here: AnyTable, there: AnyTable, tenant_id: TenantId, above: int = 0, up_to: int | None = None
) -> AsyncIterator[Any]:
    """The tenant's rows (id, stream, version) that only ``here`` has, by position."""
    position = above
    while True:
        rows = await here.connection.fetch(
            f"select global_position, event_id, aggregate_type, aggregate_id, version"
            f" from {here.name} where tenant_id = $1 and global_position > $2"
            " and global_position <= coalesce($3::bigint, 9223372036854775807)"
            " order by global_position limit $4",
            tenant_id, position, up_to, PORTION, timeout=LONG_STATEMENT_SECONDS,
        )  # fmt: skip
        if not rows:
            return
        position = rows[-1]["global_position"]
        found = await there.connection.fetch(
            f"select event_id from {there.name} where event_id = any ($1::uuid[])",
            [row["event_id"] for row in rows], timeout=LONG_STATEMENT_SECONDS,
        )  # fmt: skip
        known = {row["event_id"] for row in found}
        for row in rows:
            if row["event_id"] not in known:
                yield row


async def described(
    home: AnyTable, tenant_id: TenantId, rows: Sequence[Any], kept_in: str
) -> list[StrandedEvent]:
    """Whether each could go home: its stream has not gone on there, and its place is free."""
    streams = sorted({(row["aggregate_type"], row["aggregate_id"]) for row in rows})
    heads = await home.connection.fetch(
        "select s.kind, s.id, (select max(version) from"
        f" {home.name} e where e.aggregate_type = s.kind and e.aggregate_id = s.id) as head"
        " from unnest($1::text[], $2::uuid[]) as s(kind, id)",
        [kind for kind, _ in streams], [id for _, id in streams],
        timeout=LONG_STATEMENT_SECONDS,
    )  # fmt: skip
    head = {(row["kind"], row["id"]): row["head"] or 0 for row in heads}
    gone_on: set[tuple[str, UUID]] = set()
    found = []
    for row in rows:
        stream = row["aggregate_type"], row["aggregate_id"]
        conflict = None
        if row["version"] <= head[stream]:
            conflict = f"the stream has another event of version {row['version']} by now"
            gone_on.add(stream)
        elif stream in gone_on:
            conflict = "the stream has gone on without the events before it"
        elif row["version"] > head[stream] + 1:
            conflict = f"the stream ends at version {head[stream]} there"
        else:
            head[stream] = row["version"]
        found.append(
            StrandedEvent(
                tenant_id, row["event_id"], row["aggregate_type"], row["aggregate_id"],
                row["version"], kept_in, conflict,
            )
        )  # fmt: skip
    return found


async def put_back(
    kept: AnyTable, home: OwnTable, events: Sequence[StrandedEvent]
) -> list[StrandedEvent]:
    """Append to the home of their tenant what fits there, as any writer would; what became of each.

    An event whose place is taken meanwhile stays where it is.
    """
    columns = await home.connection.fetch(
        "select a.attname::text as name from pg_attribute a where a.attrelid = $1::text::regclass"
        " and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''",
        home.name,
    )
    names = [row["name"] for row in columns if row["name"] not in _ITS_OWN]
    listed = ", ".join(map(quote_identifier, names))
    done = []
    for event in events:
        if event.conflict is not None:
            done.append(event)
            continue
        row = await kept.connection.fetchval(
            f"select row_to_json(e)::text from {kept.name} e where event_id = $1", event.event_id
        )
        try:
            await home.connection.execute(
                f"insert into {home.name} ({listed}) select {listed}"
                f" from json_populate_record(null::{home.name}, $1::text::json)",
                row,
            )
        except asyncpg.UniqueViolationError:
            done.append(replace(event, conflict="its place was taken meanwhile"))
        else:
            done.append(replace(event, was_put_back=True))
    return done
