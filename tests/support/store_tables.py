"""The table of a store: as an older version made it, and what the server says of it."""

from __future__ import annotations

from uuid import uuid4

import asyncpg

from eventsource import DomainEvent
from eventsource.stores.postgresql import PostgreSQLEventStore

Pool = asyncpg.Pool  # type: ignore[type-arg]

OLD_TABLE = """
    create table events (
        global_position bigserial primary key, event_id uuid not null unique,
        aggregate_id uuid not null, aggregate_type varchar(255) not null,
        event_type varchar(255) not null, tenant_id uuid, version integer not null,
        timestamp timestamptz not null, actor_id varchar(255), payload jsonb not null,
        metadata jsonb not null default '{}', created_at timestamptz not null default now(),
        unique (aggregate_id, aggregate_type, version))
"""

FILL = """
    insert into events (event_id, aggregate_id, aggregate_type, event_type, version, timestamp,
                        payload)
    select gen_random_uuid(), gen_random_uuid(), 'Cart', 'Opened', 1, now(), '{}'
    from generate_series(1, 500)
"""


class Opened(DomainEvent):
    aggregate_type: str = "Cart"


async def append(store: PostgreSQLEventStore) -> int:
    cart = uuid4()
    result = await store.append_events(cart, "Cart", [Opened(aggregate_id=cart)], 0)
    return result.global_position


async def catalogue(pool: Pool) -> list[tuple[object, ...]]:
    """Everything that the database holds of ours, with the identity of its storage."""
    rows = await pool.fetch(
        """
        select c.relkind::text, c.relname::text, c.oid, pg_relation_filenode(c.oid),
               pg_get_indexdef(c.oid)
        from pg_class c
        where c.relnamespace = 'public'::regnamespace
        union all
        select 'trigger', tgname, oid, null, pg_get_triggerdef(oid) || tgenabled::text
        from pg_trigger where not tgisinternal
        order by 1, 2
        """
    )
    return [tuple(row) for row in rows]
