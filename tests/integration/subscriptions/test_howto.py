"""The how-to page on moving subscriptions runs as printed and prints what it shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import REPOSITORY
from tests.support.moved_by_hand import Move
from tests.support.page_runner import Runner, blocks_of

PAGE = REPOSITORY / "docs" / "howto" / "move-subscriptions.md"


async def test_the_page_runs_as_printed(
    source_dsn: str,
    target_dsn: str,
    control_dsn: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert {block.language for block in blocks_of(PAGE)} == {"python", "text"}
    async with Move.between(source_dsn, target_dsn, control_dsn) as move:
        await move.interleave()
        await move.checkpoints.save("OrderProjection", "shared", 9)
        await move.checkpoints.save("TenantExport", "shared", 14, move.tenant)
        await move.perform(offset=0)
        await move.append(move.target, move.tenant, 100)
        environment = {
            "SHARED_DSN": source_dsn,
            "DEDICATED_DSN": target_dsn,
            "CONTROL_DSN": control_dsn,
            "TENANT_ID": str(move.tenant),
            "MIGRATION_ID": str(move.migration_id),
        }
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        await Runner(PAGE, tmp_path, exact=True).run()
