"""Ctrl-C, SIGTERM, kill -9 and a blocked fence: what stays, and how the next command goes on."""

from __future__ import annotations

import asyncio
import json
import re
import signal

import asyncpg
import pytest

from eventsource.testing import Cluster
from tests.support.command_line import DEDICATED, CommandLine, wait_until
from tests.support.terminal import Terminal

EVENTS = 6000
#: About three seconds of bulk copy in chunks of 200 events.
SLOW = "max_events_per_second = 2000\nbatch_size = 10\n"


@pytest.fixture
def slow(ready: CommandLine) -> CommandLine:
    """A tenant whose copy takes long enough to be interrupted."""
    ready.write_config(SLOW)
    ready.sql("source", "delete from events")
    ready.seed(EVENTS)
    return ready


def until_copying(cli: CommandLine) -> None:
    def copying() -> bool:
        query = "select 1 from tenant_migrations where state = 'bulk_copy' and events_copied > 400"
        return bool(cli.sql("control", query))

    wait_until(copying)


@pytest.mark.parametrize(("by", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_copy_stays_and_run_goes_on_with_it(
    slow: CommandLine, by: signal.Signals, exit_code: int
) -> None:
    command = slow.popen("run", slow.tenant, "--to", DEDICATED, "--yes")
    until_copying(slow)
    command.send_signal(by)
    output, _ = command.communicate(timeout=20)
    assert command.returncode == exit_code, output
    slow.refuse_passwords(output)
    before = slow.migration()
    assert "Traceback" not in output
    assert f"migration {before['id']} stays as it is" in output
    assert f"eventsource-migrate run {slow.tenant} --to {DEDICATED}" in output
    assert f"eventsource-migrate abort {before['id']}" in output
    # The lease was given back: nobody has to wait for it.
    assert (before["state"], before["driver_owner"]) == ("bulk_copy", None)
    copied = slow.count("target")
    assert 0 < copied < EVENTS

    result = slow("run", slow.tenant, "--to", DEDICATED, "--yes")
    assert f"migration {before['id']} goes on" in result.output
    after = slow.migration()
    assert (after["id"], after["state"]) == (before["id"], "migrated")
    # Counting the first run's chunks twice would show more events than there are.
    assert (after["events_copied"], after["total_events"]) == (EVENTS, EVENTS)
    assert slow.count("target") == EVENTS


def test_run_takes_over_from_a_process_that_was_killed(slow: CommandLine) -> None:
    slow.write_config(SLOW + "lease_seconds = 1\n")
    command = slow.popen("run", slow.tenant, "--to", DEDICATED, "--yes")
    until_copying(slow)
    command.kill()
    command.communicate()
    assert slow.migration()["driver_owner"] is not None
    answer = slow.json("run", slow.tenant, "--to", DEDICATED, "--yes")
    assert answer["migration"]["state"] == "migrated"
    assert slow.count("target") == EVENTS


@pytest.mark.parametrize("side", ["source", "target"])
def test_run_waits_for_a_server_that_restarts_and_goes_on(
    slow: CommandLine, source_cluster: Cluster, target_cluster: Cluster, side: str
) -> None:
    command = slow.popen("run", slow.tenant, "--to", DEDICATED, "--yes")
    until_copying(slow)
    # The source server holds the control database as well.
    (source_cluster if side == "source" else target_cluster).restart()
    output, _ = command.communicate(timeout=60)
    assert command.returncode == 0, output
    assert slow.migration()["state"] == "migrated"
    assert slow.count("target") == EVENTS


def test_run_goes_on_with_a_migration_that_was_paused(slow: CommandLine) -> None:
    command = slow.popen("run", slow.tenant, "--to", DEDICATED, "--yes")
    until_copying(slow)
    id_ = slow.migration()["id"]
    slow("pause", id_)
    output, _ = command.communicate(timeout=20)
    assert command.returncode == 1, output
    assert f"migration {id_} was paused meanwhile" in output
    result = slow("run", slow.tenant, "--to", DEDICATED, "--yes")
    assert f"migration {id_} goes on, it was paused" in result.output


def test_run_ends_when_somebody_aborts_the_migration(slow: CommandLine) -> None:
    command = slow.popen("run", slow.tenant, "--to", DEDICATED, "--yes")
    until_copying(slow)
    slow("abort", slow.migration()["id"], "--reason", "wrong tenant")
    output, _ = command.communicate(timeout=20)
    assert command.returncode == 1, output
    assert "was aborted meanwhile: wrong tenant" in output


def test_an_interrupted_copy_can_be_aborted(slow: CommandLine) -> None:
    command = slow.popen("run", slow.tenant, "--to", DEDICATED, "--yes")
    until_copying(slow)
    command.send_signal(signal.SIGINT)
    command.communicate(timeout=20)
    slow("abort", slow.migration()["id"])
    assert (slow.count("source"), slow.count("target")) == (EVENTS, 0)


def test_output_without_a_terminal_is_plain_lines(slow: CommandLine) -> None:
    command = slow.popen("run", slow.tenant, "--to", DEDICATED, "--yes")
    output, _ = command.communicate(timeout=60)
    assert command.returncode == 0, output
    assert "\x1b" not in output
    assert "\r" not in output
    copying = [line for line in output.splitlines() if line.startswith("copy ")]
    assert any("of 6,000 events" in line and "/s  ETA" in line for line in copying), output


def test_work_drives_what_others_started_until_it_is_asked_to_stop(slow: CommandLine) -> None:
    slow("start", slow.tenant, "--to", DEDICATED)
    command = slow.popen("work", "--json")
    assert command.stdout is not None
    told = next(line for line in command.stdout if '"state": "dual_write"' in line)
    assert json.loads(told)["tenant_id"] == str(slow.tenant)
    command.send_signal(signal.SIGTERM)
    output, _ = command.communicate(timeout=20)
    assert command.returncode == 0
    assert re.fullmatch(r"\d\d:\d\d:\d\d  stopped; another process may go on at once\n", output)
    assert slow.migration()["driver_owner"] is None


def test_a_writer_that_holds_the_fence_open_is_exit_code_5_and_is_named(
    ready: CommandLine,
) -> None:
    ready.write_config("cutover_timeout_seconds = 0.5\n")

    async def cut_over_beside_an_open_transaction() -> tuple[int, str]:
        writer = await asyncpg.connect(ready.source_dsn)
        # The guard is there from the first `run` on.
        await asyncio.to_thread(ready, "run", ready.tenant, "--to", DEDICATED)
        transaction = writer.transaction()
        await transaction.start()
        await writer.execute(
            "insert into events (event_id, aggregate_id, aggregate_type, event_type, tenant_id,"
            " version, timestamp, payload)"
            " values (gen_random_uuid(), gen_random_uuid(), 'A', 'E', $1, 1, now(), '{}')",
            ready.tenant,
        )
        result = await asyncio.to_thread(
            ready, "run", ready.tenant, "--to", DEDICATED, "--yes", exit_code=None
        )
        await transaction.commit()
        await writer.close()
        return result.exit_code, result.output

    exit_code, output = asyncio.run(cut_over_beside_an_open_transaction())
    assert exit_code == 5, output
    assert "did not fit its budget of 0.5 s" in output
    # Who is in the way is named, and never what it said.
    assert "idle in transaction" in output
    assert "insert into events" not in output
    assert ready.migration()["state"] == "dual_write"
    ready("cutover", ready.migration()["id"], "--force")
    assert ready.count("target") == 401


@pytest.mark.parametrize(("answer", "state"), [("y\n", "migrated"), ("\n", "dual_write")])
def test_run_asks_at_a_terminal_before_the_cutover(
    ready: CommandLine, answer: str, state: str
) -> None:
    terminal = Terminal(ready, "run", ready.tenant, "--to", DEDICATED)
    terminal.read_until("Cut over now?")
    assert ready.migration()["state"] == "dual_write"
    terminal.type(answer)
    assert terminal.end() == 0, terminal.output
    assert ready.migration()["state"] == state


def test_ctrl_c_at_the_question_leaves_at_once(ready: CommandLine) -> None:
    terminal = Terminal(ready, "run", ready.tenant, "--to", DEDICATED)
    terminal.read_until("Cut over now?")
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.end() == 130, terminal.output
    assert "stays as it is" in " ".join(terminal.output.split())
    migration = ready.migration()
    assert (migration["state"], migration["driver_owner"]) == ("dual_write", None)
