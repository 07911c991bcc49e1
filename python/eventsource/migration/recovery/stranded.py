"""Events that are only where their tenant does not live: named, and put back where they fit."""

from __future__ import annotations

from collections.abc import Sequence
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

#: What a store gives an event itself.
_ITS_OWN = ("global_position", "transaction_id")


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
