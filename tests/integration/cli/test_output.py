"""Output that cannot be written, a terminal that is closed, and what a command that waits says."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest

from tests.support.command_line import DEDICATED, SHARED, CommandLine, wait_until

_COMMAND = [sys.executable, "-c", "from eventsource.cli import main; main()"]


def shell(cli: CommandLine, script: str) -> subprocess.CompletedProcess[str]:
    """Run a line of shell in which ``$M`` is the command."""
    return subprocess.run(
        ["bash", "-c", "set -o pipefail; " + script.replace("$M", '"$@"'), "bash", *_COMMAND],
        env={**os.environ, "EVENTSOURCE_CONFIG": str(cli.config)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


@pytest.mark.parametrize(
    "verb", ["list", "list --json", "status", "fleet status", "plan {} --to dedicated"]
)
@pytest.mark.parametrize("where", [">/dev/full", ">&-", "| true"])
def test_output_that_cannot_be_written_is_one_line(
    ready: CommandLine, verb: str, where: str
) -> None:
    done = shell(ready, f"$M {verb.format(ready.tenant)} {where}")
    assert "Traceback" not in done.stderr
    assert "database" not in done.stderr
    assert "stopped looking" not in done.stderr  # it is about somebody who watched
    if where == "| true" and done.returncode == 0:
        return  # it was faster than the other end
    assert done.returncode == 1
    assert re.fullmatch(r"error: .*output.*\n", done.stderr), done.stderr


@pytest.mark.parametrize(
    "asked", ["--help", "run --help", "fleet status -h", "--version", "--show-completion bash"]
)
@pytest.mark.parametrize("where", [">/dev/full", "| true"])
def test_help_that_cannot_be_written_is_one_line(cli: CommandLine, asked: str, where: str) -> None:
    """It was a traceback: what is printed before there is a verb nobody looked after."""
    done = shell(cli, f"$M {asked} {where}")
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    if where == ">/dev/full":
        assert done.returncode == 1
        assert done.stderr == "error: cannot write the output: No space left on device\n"


@pytest.mark.parametrize("where", ["| head -n 2", ">/dev/full"])
def test_a_run_whose_output_is_gone_says_how_to_go_on(ready: CommandLine, where: str) -> None:
    done = shell(ready, f"$M run {ready.tenant} --to {DEDICATED} --yes {where}")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "cannot write the output" in done.stderr
    # Nobody has to wait for its lease.
    for row in ready.sql("control", "select id, driver_owner from tenant_migrations"):
        assert row["driver_owner"] is None
        assert f"eventsource-migrate run {ready.tenant}" in done.stderr
    assert ready.json("run", ready.tenant, "--to", DEDICATED, "--yes")["outcome"] in (
        "migrated",
        "already_there",
    )


@pytest.mark.parametrize("nohup", [False, True])
def test_a_terminal_that_is_closed_ends_a_command_as_sigterm_does(
    ready: CommandLine, nohup: bool
) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN if nohup else signal.SIG_DFL)
    try:
        command = ready.popen("work")
    finally:
        signal.signal(signal.SIGHUP, before)
    assert command.stdout is not None
    assert "driving" in command.stdout.readline()
    command.send_signal(signal.SIGHUP)
    if nohup:
        time.sleep(1)
        assert command.poll() is None
        command.send_signal(signal.SIGTERM)
    output, _ = command.communicate(timeout=30)
    assert command.returncode == 0, output
    assert "stopped; another process may go on at once" in output


def test_a_plan_refuses_what_a_run_refuses(ready: CommandLine) -> None:
    """Another name of the same store is not where the tenant lives."""
    with ready.config.open("a") as config:
        config.write(f"[stores.alias]\ndsn = {json.dumps(ready.source_dsn)}\n")
    for verb in ("plan", "run", "start"):
        answer = ready(verb, ready.tenant, "--from", "alias", "--to", DEDICATED, exit_code=1)
        assert f"lives in the default store, '{SHARED}'" in answer.output


def test_two_runs_at_the_same_moment_join(ready: CommandLine) -> None:
    commands = [ready.popen("run", ready.tenant, "--to", DEDICATED, "--yes") for _ in range(3)]
    for command in commands:
        output, _ = command.communicate(timeout=90)
        assert command.returncode == 0, output
    assert len(ready.sql("control", "select from tenant_migrations")) == 1
    assert ready.count("target") == ready.count("source")


@pytest.mark.parametrize("verb", ["abort", "cutover"])
def test_a_command_that_waits_says_for_which_session(
    ready: CommandLine, verb: str, tmp_path: Path
) -> None:
    """Within three seconds at the terminal, in `status` and in its JSON."""
    migration = ready.json("start", ready.tenant, "--to", DEDICATED)["id"]
    working = ready.popen("work")
    try:
        wait_until(lambda: ready.migration()["state"] == "dual_write")
        asyncio.run(_while_somebody_writes(ready, verb, migration))
    finally:
        working.terminate()
        working.communicate(timeout=30)


async def _while_somebody_writes(cli: CommandLine, verb: str, migration: str) -> None:
    blocker = await asyncpg.connect(
        cli.source_dsn, server_settings={"application_name": "nightly-report"}
    )
    try:
        await blocker.execute("begin")
        await blocker.execute(
            "insert into events (event_id, aggregate_id, aggregate_type, event_type, tenant_id,"
            " version, timestamp, payload)"
            " values (gen_random_uuid(), $1, 'Note', 'noted', $2, 1, now(), '{}')",
            uuid4(), cli.tenant,
        )  # fmt: skip
        command = cli.popen(verb, migration)
        assert command.stdout is not None
        line = ""
        for _ in range(2):  # the first may say that its driver is at work
            if "pid" not in line:
                line = await asyncio.to_thread(command.stdout.readline)
        assert f"pid {blocker.get_server_pid()} (nightly-report, idle in transaction" in line
        assert "since" in line
        status = await asyncio.to_thread(cli, "status", migration)
        assert "nightly-report" in status.output
        shown = await asyncio.to_thread(partial(cli.json, "status", migration))
        assert "nightly-report" in shown["error_message"]
        assert shown["is_waiting"]
        await blocker.execute("rollback")
        output, _ = await asyncio.to_thread(partial(command.communicate, timeout=30))
        assert command.returncode == 0, output
    finally:
        await blocker.close()
