"""A command line and the databases it works on."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import asyncpg
from typer.testing import CliRunner, Result

from eventsource.cli import app
from eventsource.cli.demo.servers import seed

SHARED, DEDICATED = "shared", "dedicated"
PATIENCE = 30.0


@dataclass
class CommandLine:
    """Runs commands against three fresh databases, in this process or in one of its own."""

    source_dsn: str
    target_dsn: str
    control_dsn: str
    directory: Path
    tenant: UUID = field(default_factory=uuid4)
    other: UUID = field(default_factory=uuid4)
    #: Settings of the sessions in which `sql` asks.
    session: dict[str, str] = field(default_factory=dict)

    @property
    def config(self) -> Path:
        return self.directory / "eventsource.toml"

    @property
    def passwords(self) -> set[str]:
        dsns = (self.source_dsn, self.target_dsn, self.control_dsn)
        return {password for dsn in dsns if (password := urlsplit(dsn).password)}

    def write_config(self, defaults: str = "", **changed: str) -> None:
        """Write the configuration; ``changed`` replaces dsns by store id or ``control``."""
        dsns = {
            "control": self.control_dsn,
            SHARED: self.source_dsn,
            DEDICATED: self.target_dsn,
        } | changed
        self.config.write_text(
            f'default_store = "{SHARED}"\n'
            f"control = {{ dsn = {json.dumps(dsns['control'])} }}\n"
            f"[stores.{SHARED}]\ndsn = {json.dumps(dsns[SHARED])}\n"
            f"[stores.{DEDICATED}]\ndsn = {json.dumps(dsns[DEDICATED])}\n"
            f"[defaults]\npass_interval_seconds = 0.05\n{defaults}"
        )

    def __call__(self, *args: object, exit_code: int | None = 0) -> Result:
        """Run a command in this process, check its exit code and that no password is printed."""
        named = {"EVENTSOURCE_CONFIG": str(self.config)}
        result = CliRunner().invoke(app, [*map(str, args)], env=named)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        self.refuse_passwords(result.output)
        assert exit_code is None or result.exit_code == exit_code, result.output
        return result

    def json(self, *args: object, exit_code: int = 0) -> Any:
        """Run a command with --json; what it printed, parsed."""
        return json.loads(self("--json", *args, exit_code=exit_code).stdout)

    def popen(self, *args: object, **environment: str) -> subprocess.Popen[str]:
        """Start a command in a process of its own."""
        return subprocess.Popen(
            [sys.executable, "-c", "from eventsource.cli import main; main()", *map(str, args)],
            env={**os.environ, "EVENTSOURCE_CONFIG": str(self.config), **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def refuse_passwords(self, output: str) -> None:
        for password in self.passwords:
            assert password not in output

    def seed(self, events: int) -> None:
        """Events of the tenant in the shared store, and a tenth as many of another."""
        asyncio.run(seed(self.source_dsn, self.tenant, [self.other], events))

    def sql(self, side: str, query: str, *args: object) -> list[asyncpg.Record]:
        """Ask a database directly: ``source``, ``target`` or ``control``."""
        dsn = {"source": self.source_dsn, "target": self.target_dsn}.get(side, self.control_dsn)

        async def fetch() -> list[asyncpg.Record]:
            connection = await asyncpg.connect(dsn, server_settings=self.session)
            try:
                return await connection.fetch(query, *args)
            finally:
                await connection.close()

        return asyncio.run(fetch())

    def count(self, side: str, tenant: UUID | None = None) -> int:
        """Rows of a tenant in the event table of a side."""
        query = "select count(*) from events where tenant_id = $1"
        return int(self.sql(side, query, tenant or self.tenant)[0][0])

    def migration(self) -> asyncpg.Record:
        """The tenant's newest row of the journal."""
        query = "select * from tenant_migrations where tenant_id = $1 order by created_at desc"
        return self.sql("control", query, str(self.tenant))[0]


def wait_until(condition: Callable[[], bool], seconds: float = PATIENCE) -> None:
    """Poll until the condition holds; AssertionError when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)
