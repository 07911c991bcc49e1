"""The how-to page on moving subscriptions runs as printed and prints what it shows."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from hand_moved import Move

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "move-subscriptions.md"
FENCED = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


async def run_block(source: str, namespace: dict[str, Any]) -> None:
    code = compile(source, PAGE.name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    waiting = eval(code, namespace)
    if inspect.isawaitable(waiting):
        await waiting


async def test_the_page_runs_as_printed(
    source_dsn: str,
    target_dsn: str,
    control_dsn: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
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

        namespace: dict[str, Any] = {"__name__": "page"}
        blocks = FENCED.findall(PAGE.read_text(encoding="utf-8"))
        assert {language for language, _ in blocks} == {"python", "text"}
        for language, text in blocks:
            if language == "python":
                await run_block(text, namespace)
            else:
                assert capsys.readouterr().out == text
        assert capsys.readouterr().out == ""
        stores = (namespace["shared"], namespace["dedicated"])
        pools: list[asyncpg.Pool] = [namespace["control"], *(store.pool for store in stores)]
        for pool in pools:
            await pool.close()
