"""Commands that are printed are copied into a shell, and have to run there as they are."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.command_line import DEDICATED, SHARED, CommandLine, wait_until

TENANTS = ["-acme", "--yes", "acme & sons", "o'brien", "$HOME", "#1", "a;b `id`"]

_TABLE = (
    "create table order_events (position bigserial primary key, tenant text not null,"
    " stream text not null, body text)"
)
_LAYOUT = """
[layouts.orders]
title = "orders"
[[layouts.orders.tables]]
table = "order_events"
events = true
key = ["position"]
tenant = "tenant"
numbered = { position = "own" }
stream = ["stream"]
"""


class Shell:
    """Somebody who types and pastes; ``flags`` are given with what is typed alone."""

    def __init__(self, directory: Path, config: Path | None, *flags: str) -> None:
        self.directory, self.config, self.flags = directory, config, flags

    def __call__(self, text: str) -> subprocess.CompletedProcess[str]:
        environment = dict(os.environ)
        environment.pop("EVENTSOURCE_CONFIG", None)
        if self.config is not None:
            environment["EVENTSOURCE_CONFIG"] = str(self.config)
        programs = self.directory / "bin"
        if not programs.exists():
            programs.mkdir()
            program = programs / "eventsource-migrate"
            program.write_text(f"#!{sys.executable}\nfrom eventsource.cli import main\nmain()\n")
            program.chmod(0o755)
        environment["PATH"] = f"{programs}:{environment['PATH']}"
        return subprocess.run(
            ["sh", "-c", text], env=environment, cwd=self.directory, text=True,
            stdin=subprocess.DEVNULL, capture_output=True, timeout=60,
        )  # fmt: skip

    def paste(self, said: str, label: str) -> subprocess.CompletedProcess[str]:
        """Run what a line with this label says."""
        [line] = re.findall(rf"^{label} +(eventsource-migrate .*)$", said, re.MULTILINE)
        return self(line)


@pytest.fixture
def orders(cli: CommandLine) -> CommandLine:
    """Stores of a layout, in which a tenant may have any name; their ids are odd as well."""
    cli.config.write_text(
        f'default_store = "shared store"\ncontrol = {{ dsn = {json.dumps(cli.control_dsn)} }}\n'
        f'[stores."shared store"]\nlayout = "orders"\ndsn = {json.dumps(cli.source_dsn)}\n'
        f'[stores."-away"]\nlayout = "orders"\ndsn = {json.dumps(cli.target_dsn)}\n{_LAYOUT}'
        "[defaults]\npass_interval_seconds = 0.05\n"
    )
    for side in ("source", "target"):
        cli.sql(side, _TABLE)
    cli.sql(
        "source",
        "insert into order_events (tenant, stream, body) select t, 's' || i % 3, 'x'"
        " from unnest($1::text[]) t, generate_series(1, 20) i",
        TENANTS,
    )
    cli("init")
    return cli


def test_a_tenant_of_any_name_goes_on_as_it_is_said(orders: CommandLine, tmp_path: Path) -> None:
    shell = Shell(tmp_path, orders.config)
    for tenant in TENANTS:
        stopped = orders("run", "--to", "-away", "--", tenant).output
        done = shell.paste(stopped, "go on")
        assert done.returncode == 0, done.stderr
        assert "the tenant lives in '-away'" in done.stdout
        [moved] = orders.json("list", "--tenant", tenant)
        assert (moved["tenant_id"], moved["state"]) == (tenant, "migrated")


def test_a_plan_of_a_move_that_is_under_way_says_a_command_that_runs(
    orders: CommandLine, tmp_path: Path
) -> None:
    shell = Shell(tmp_path, orders.config)
    for tenant in TENANTS[:2]:
        orders("start", "--to", "-away", "--", tenant)
        planned = orders("plan", "--to", "-away", "--", tenant).output
        done = shell.paste(planned, "go on")
        assert done.returncode == 0, done.stderr
        assert "before the cutover" in done.stdout


def test_a_wave_of_any_name_goes_on_as_it_is_said(orders: CommandLine, tmp_path: Path) -> None:
    shell = Shell(tmp_path, orders.config)
    for wave, tenant in zip(("-w1", "week 1 & 2", "o'clock"), TENANTS, strict=False):
        file = tmp_path / "wave.csv"
        file.write_text(f"{tenant},-away\n")
        planned = orders("fleet", "plan", "--file", file, "--", wave).output
        assert shell.paste(planned, "begin:").returncode == 0
        stopped = orders("fleet", "stop", "--", wave).output
        assert shell(stopped.split("go on: ")[1]).returncode == 0
        [known] = [each for each in orders.json("fleet", "status") if each["wave"]["name"] == wave]
        assert known["wave"]["state"] == "running"


def test_a_configuration_that_was_named_is_named_again(ready: CommandLine, tmp_path: Path) -> None:
    """Pasted after `--config PATH` was typed, they found no configuration, or another one."""
    elsewhere = tmp_path / "the operator's"
    elsewhere.mkdir()
    named = elsewhere / "stores.toml"
    ready.config.rename(named)
    shell = Shell(tmp_path, None)
    given = '--config "the operator\'s/stores.toml"'
    stopped = shell(f"eventsource-migrate {given} run {ready.tenant} --to {DEDICATED}")
    assert stopped.returncode == 0, stopped.stderr
    done = shell.paste(stopped.stdout, "go on")
    assert done.returncode == 0, done.stderr
    refused = shell(f"eventsource-migrate abort --tenant {ready.tenant} {given}")
    back = refused.stderr.split("`")[1]
    assert "returned" in shell(back).stdout
    as_json = shell(f"eventsource-migrate --json {given} run {ready.tenant} --to {DEDICATED}")
    [way_out, *_] = json.loads(as_json.stdout)["error"]["next"]
    assert shell(way_out["command"]).returncode == 0


def test_a_return_that_timed_out_goes_on_as_it_is_said(ready: CommandLine, tmp_path: Path) -> None:
    """It named the move in place of the return, which could be neither cut over nor aborted."""
    shell = Shell(tmp_path, ready.config)
    ready("move", ready.tenant, "--to", DEDICATED)
    first = ready.migration()["id"]
    for label, answer in (("undo", "rolled_back"), ("again", f"the tenant lives in {SHARED!r}")):
        with held(ready):
            timed_out = ready("return", first, "--yes", "--max-pause", "0.1", exit_code=5).output
        assert ready.migration()["returns"] == first
        done = shell.paste(timed_out, label)
        assert done.returncode == 0, done.stderr
        assert answer in done.stdout


def test_what_a_return_refuses_says_commands_that_run(ready: CommandLine, tmp_path: Path) -> None:
    shell = Shell(tmp_path, ready.config)
    ready("move", ready.tenant, "--to", DEDICATED)
    first = ready.migration()["id"]
    with held(ready):
        ready("return", first, "--yes", "--max-pause", "0.1", exit_code=5)
    assert ready.migration()["returns"] == first
    too_early = ready("cleanup", first, "--now", "--backed-up", exit_code=1).output
    watched = too_early.split("`")[1].removesuffix(" --watch")
    assert str(ready.migration()["id"]) in shell(watched).stdout
    refused = ready("way-back", "close", first, "--yes", exit_code=1).output
    assert shell(refused.split("`")[1]).returncode == 0
    assert ready.migration()["state"] == "rolled_back"
    # A step is said without a command in the message, too.
    ready("return", first, "--yes")
    over = ready("way-back", "close", first, "--yes", exit_code=1).output
    assert shell.paste(over, "look").returncode == 0


class held:
    """Somebody's transaction that has written for the tenant at the target."""

    def __init__(self, cli: CommandLine) -> None:
        self._cli = cli
        sql = (
            "begin; insert into events (event_id, aggregate_id, aggregate_type, event_type,"
            ' tenant_id, version, "timestamp", payload) values (gen_random_uuid(),'
            f" gen_random_uuid(), 'X', 'X', '{cli.tenant}', 1, now(), '{{}}');"
            " select pg_sleep(60);"
        )
        program = (
            "import asyncio, asyncpg, sys\n"
            "async def main():\n"
            "    connection = await asyncpg.connect(sys.argv[1],"
            " server_settings={'application_name': 'holder'})\n"
            "    await connection.execute(sys.argv[2])\n"
            "asyncio.run(main())\n"
        )
        self._process = subprocess.Popen([sys.executable, "-c", program, cli.target_dsn, sql])

    def __enter__(self) -> None:
        wait_until(
            lambda: bool(self._ask("select from pg_stat_activity where {} and query ~ 'pg_sleep'"))
        )

    def __exit__(self, *_: object) -> None:
        self._ask("select pg_terminate_backend(pid) from pg_stat_activity where {}")
        self._process.kill()
        self._process.wait()
        wait_until(lambda: not self._ask("select from pg_stat_activity where {}"))

    def _ask(self, query: str) -> list[object]:
        return list(self._cli.sql("target", query.format("application_name = 'holder'")))
