"""A role that owns a library's tables and is no superuser moves a tenant; one with less is told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import uuid4

import asyncpg
import pytest

from eventsource.migration import MigrationState, PreflightError, background
from eventsource.migration.layouts.presets import presets
from tests.support import marten
from tests.support.fingerprint import fingerprint
from tests.support.owning_role import owning_role
from tests.support.worlds.layouts import LayoutWorld, layout_world


@pytest.fixture
async def owned(
    dsns: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[LayoutWorld, str]]:
    """Marten's tables, made by a role whose name needs quotes; and that role."""
    monkeypatch.setattr(background, "POLL_SECONDS", 0.01)
    async with (
        owning_role(dsns) as role,
        layout_world(presets()["marten"], marten.make, role.dsns) as world,
    ):
        for _ in range(3):
            await marten.append(world.source, "acme", uuid4(), 2)
        yield world, role.quoted


async def test_an_owner_that_is_no_superuser_moves_a_tenant(
    owned: tuple[LayoutWorld, str],
) -> None:
    world, _ = owned
    migration = await world.move("acme")
    assert migration.state is MigrationState.MIGRATED
    assert await world.target.fetchval("select count(*) from mt_events") == 6
    with pytest.raises(asyncpg.PostgresError) as refused:
        await marten.append(world.source, "acme", uuid4(), 1)
    assert refused.value.sqlstate == "EVF01"


#: Side, what was taken from the role there, and what it is told.
LACKING = [
    ("source", "alter table mt_streams owner to postgres; grant all on mt_streams to {role}",
     ['does not own the source table "public"."mt_streams"', "grant postgres to {role}"]),
    ("target", "alter table mt_streams owner to postgres; grant all on mt_streams to {role}",
     ['does not own the target table "public"."mt_streams"', "grant postgres to {role}"]),
    ("source", "revoke create on schema public from {role}, public",
     ["may make nothing in the source's schema", 'grant create on schema "public" to {role}']),
    ("target", "revoke create on schema public from {role}, public",
     ["may make nothing in the target's schema", 'grant create on schema "public" to {role}']),
    ("source", "alter table mt_streams enable row level security, force row level security",
     ['row-level security of the source table "public"."mt_streams"']),
    ("source", "revoke delete on eventsource_changes from {role}",
     ["lacks DELETE", "eventsource_changes", "the source's database"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("side", "change", "told"), LACKING, ids=[f"{side}: {each[:50]}" for side, each, _ in LACKING]
)
async def test_what_it_lacks_is_told_and_nothing_is_changed(
    owned: tuple[LayoutWorld, str], dsns: dict[str, str], side: str, change: str, told: list[str]
) -> None:
    world, role = owned
    superuser = {each: await asyncpg.connect(dsn) for each, dsn in dsns.items()}
    await superuser[side].execute(change.format(role=role))
    before = [await fingerprint(each) for each in superuser.values()]
    with pytest.raises(PreflightError) as refused:
        await world.start("acme")
    for text in told:
        assert text.replace("{role}", role) in str(refused.value)
    assert [await fingerprint(each) for each in superuser.values()] == before
    for each in superuser.values():
        await each.close()
