"""What a plan looks for among all links takes no longer than reading them."""

from __future__ import annotations

import time

import asyncpg

from eventsource.migration.event_table import EventTable
from eventsource.migration.journaled import ownership
from eventsource.migration.journaled.shapes import of as shape_of
from eventsource.migration.layouts.presets import presets
from tests.layouts.torture.libraries import LIBRARIES
from tests.support.worlds.layouts import SOURCE, TARGET, layout_world

LINKS = 20_000

_FILL = f"""
insert into event_store_events (event_id, event_type, metadata, data, created_at)
select md5(tenant || n)::uuid, 'Placed', jsonb_build_object('tenant_id', tenant), '{{}}', now()
from unnest(array['acme', 'umbrella']) tenant, generate_series(1, {LINKS}) n;
insert into event_store_events_in_streams (stream, position, event_id, created_at)
select tenant || '$' || n, 0, md5(tenant || n)::uuid, now()
from unnest(array['acme', 'umbrella']) tenant, generate_series(1, {LINKS}) n;
insert into event_store_events_in_streams (stream, event_id, created_at)
select 'everybody', md5(tenant || 1)::uuid, now() from unnest(array['acme', 'umbrella']) tenant;
"""


async def test_links_of_two_tenants_are_compared_by_their_streams(dsns: dict[str, str]) -> None:
    """Each with each would take minutes."""
    layout = presets()["rails-event-store"]

    async def make(connection: asyncpg.Connection) -> None:
        await connection.execute(LIBRARIES["rails-event-store"].tables)

    async with layout_world(layout, make, dsns) as world:
        # Nobody has analyzed it: statistics are not what it is quick by.
        await world.source.execute(_FILL)
        source = EventTable(world.source, await world.stores[SOURCE].address(), layout)
        target = EventTable(world.target, await world.stores[TARGET].address(), layout)
        shape = await shape_of(source, target, layout, "acme")
        began = time.monotonic()
        [found] = await ownership.shared_streams(source, shape)
        assert time.monotonic() - began < 5
    assert "'everybody'" in found.text
    assert found.text.startswith("1 row of")
