"""A comparison after the move says how much it has left out."""

from __future__ import annotations

import asyncio
from pathlib import Path
from uuid import uuid4

import pytest

from eventsource.migration import VerificationLevel, VerificationReport
from eventsource.migration.journaled import verification
from tests.layouts.test_command_line import TENANT, Shop, prepared
from tests.support import marten
from tests.support.worlds.layouts import SOURCE, TARGET, LayoutWorld

#: What writes every row of a table again, without another value in it.
REWRITES = (
    "alter table mt_events alter column data type jsonb using data || '{}'",
    "create table again as table mt_events; truncate mt_events cascade;"
    " insert into mt_events overriding system value table again; drop table again",
)


async def _compared(shop: LayoutWorld) -> VerificationReport:
    stores = shop.stores[SOURCE], shop.stores[TARGET]
    return await verification.verify(*stores, "acme", VerificationLevel.FULL)


@pytest.mark.parametrize("rewrite", REWRITES, ids=["alter type", "loaded again"])
async def test_rows_that_differ_and_were_written_since_are_counted(
    shop: LayoutWorld, rewrite: str
) -> None:
    for _ in range(4):
        await marten.append(shop.source, "acme", uuid4(), 3)
    await shop.move("acme")
    assert (await _compared(shop)).rows_changed_since == 0
    await shop.target.execute(rewrite)
    # Equal rows are compared, however young they are.
    report = await _compared(shop)
    assert (report.is_consistent, report.rows_changed_since) == (True, 0)
    await shop.target.execute("update mt_events set data = '{}' where seq_id <= 2")
    await marten.append(shop.target, "acme", uuid4(), 3)
    report = await _compared(shop)
    assert (report.is_consistent, report.rows_changed_since) == (True, 2)


@pytest.mark.parametrize("written", ["eventsource_fences", "eventsource_copy_progress"])
async def test_what_is_written_since_is_known_when_a_row_of_the_move_was_written_later(
    shop: LayoutWorld, written: str
) -> None:
    for _ in range(4):
        await marten.append(shop.source, "acme", uuid4(), 3)
    await shop.move("acme")
    await shop.target.execute("update mt_events set data = '{}' where seq_id <= 2")
    await shop.target.execute(f"update {written} set updated_at = now()")
    report = await _compared(shop)
    assert (report.is_consistent, report.rows_changed_since) == (True, 2), report.differences


async def test_the_command_says_what_it_has_left_out(dsns: dict[str, str], tmp_path: Path) -> None:
    await prepared(dsns)
    await asyncio.to_thread(_use, Shop(dsns["source"], dsns["target"], dsns["control"], tmp_path))


def _use(shop: Shop) -> None:
    shop.write_config()
    shop("init")
    shop("run", TENANT, "--to", "dedicated", "--yes")
    said = shop("verify", TENANT, "--level", "full").output
    assert "left out" not in said
    shop.sql("target", "update mt_events set data = '{}' where seq_id <= 2")
    said = shop("verify", TENANT, "--level", "full").output
    assert "consistent: 20 rows, 2 rows written at the target since left out, level full" in said
    assert shop.json("verify", TENANT, "--level", "full")["rows_changed_since"] == 2
    # Nothing of what is compared is left.
    shop.sql("target", "update mt_events set data = '[]'")
    shop.sql("target", "update mt_streams set type = 'another'")
    said = shop("verify", TENANT, "--level", "full", exit_code=2).output
    assert "nothing was compared: all 20 rows" in said
    # Nor where their owner has deleted them at the source.
    shop.sql("source", "alter table mt_events disable trigger all")
    shop.sql("source", "alter table mt_streams disable trigger all")
    shop.sql("source", "delete from mt_events where tenant_id <> 'umbrella'")
    shop.sql("target", "update mt_streams set type = null")
    shop.sql("source", "delete from mt_streams where tenant_id <> 'umbrella'")
    for level in ("count", "hash", "full"):
        said = shop("verify", TENANT, "--level", level, exit_code=2).output
        assert "nothing was compared: 'shared' holds no row" in said


async def test_rows_that_the_source_has_no_more_are_counted(shop: LayoutWorld) -> None:
    for _ in range(4):
        await marten.append(shop.source, "acme", uuid4(), 3)
    await shop.move("acme")
    await marten.append(shop.target, "acme", uuid4(), 2)
    await shop.source.execute("alter table mt_events disable trigger all")
    await shop.source.execute("delete from mt_events where seq_id > 7")
    report = await _compared(shop)
    assert (report.is_consistent, report.source_event_count) == (True, 11)
    assert (report.rows_changed_since, report.rows_gone_since) == (0, 5)


async def test_before_the_first_pass_nothing_is_compared(
    dsns: dict[str, str], tmp_path: Path
) -> None:
    await prepared(dsns)

    def use(shop: Shop) -> None:
        shop.write_config()
        shop("init")
        shop("start", TENANT, "--to", "dedicated")
        for level in ("count", "hash", "full"):
            said = shop("verify", TENANT, "--level", level, exit_code=75).output
            assert "nothing was compared: no pass of migration" in said

    await asyncio.to_thread(use, Shop(dsns["source"], dsns["target"], dsns["control"], tmp_path))
