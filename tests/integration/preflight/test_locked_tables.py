"""A preflight that waits for a lock says so, where, and whose it is."""

from __future__ import annotations

import asyncpg
import pytest

from eventsource.migration import PreflightError
from eventsource.migration.preflight import admission
from tests.support.worlds.three_databases import World, table


@pytest.mark.parametrize(
    ("side", "locked"),
    [("source", "{table}"), ("target", "{table}"), ("target", "eventsource_fences"),
     ("control", "tenant_migrations")],
)  # fmt: skip
async def test_a_table_that_somebody_has_locked(
    world: World, monkeypatch: pytest.MonkeyPatch, side: str, locked: str
) -> None:
    """It was said that a server does not answer, and to look at the firewall."""
    monkeypatch.setattr(admission, "PREFLIGHT_SECONDS", 1.0)
    await world.seed(3)
    named = locked.format(table=table(side)) if side != "control" else locked
    settings = {"application_name": "vacuum full"}
    holder = await asyncpg.connect(world.dsns[side], server_settings=settings)
    async with holder.transaction():
        await holder.execute(f"lock table {named} in access exclusive mode")
        whose = "the control database" if side == "control" else f"the {side}'s database"
        with pytest.raises(PreflightError) as refused:
            await world.here.start(world.tenant)
        said, pid = str(refused.value), holder.get_server_pid()
        assert f"{whose} did not answer within 1 s" in said
        assert f"a table is locked there by pid {pid} (vacuum full" in said
        assert f"select pg_terminate_backend({pid})" in said
        assert "firewall" not in said
        assert refused.value.passes
    await holder.close()
