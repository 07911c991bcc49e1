"""What commands say: counts that end at all of it, who drives, times, JSON also for mistakes."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from statistics import median

import asyncpg
import pytest

from tests.support.command_line import DEDICATED, SHARED, CommandLine, wait_until
from tests.support.terminal import Terminal

_TIME = re.compile(r"^\d\d:\d\d:\d\d  ")


def test_a_run_that_stops_before_the_cutover_says_that_nobody_drives(ready: CommandLine) -> None:
    stopped = ready("run", ready.tenant, "--to", DEDICATED).output
    assert "nobody drives it from here on" in stopped
    shown = ready("status", "--tenant", ready.tenant).output
    assert re.search(r"^driver +nobody drives it", shown, re.MULTILINE)
    resumed = ready("resume", "--tenant", ready.tenant).output
    assert "nobody drives it from here on" in resumed
    working = ready.popen("work")
    try:
        wait_until(lambda: ready.migration()["driver_owner"] is not None)
        assert f":{working.pid} drives it" in ready("resume", "--tenant", ready.tenant).output
    finally:
        working.terminate()
        working.communicate(timeout=30)


def test_the_audit_says_what_became_of_the_comparison(ready: CommandLine) -> None:
    """Every plain run was on record as force=True."""
    for arguments, comparison in (
        (["run", ready.tenant, "--to", DEDICATED, "--yes"], "done before"),
        (["cutover", "--force", "--tenant", ready.other], "left out"),
    ):
        if arguments[0] == "cutover":
            ready("start", ready.other, "--to", DEDICATED)
        ready(*arguments)
        tenant = ready.other if arguments[0] == "cutover" else ready.tenant
        entries = ready.json("audit", "--tenant", tenant)
        (asked,) = [each for each in entries if each["event_type"] == "cutover_requested"]
        assert asked["details"]["comparison"] == comparison
        assert asked["details"]["force"] is (comparison == "left out")
    shown = ready("audit", "--tenant", ready.tenant).output
    assert "True" not in shown
    assert "{" not in shown


def test_the_audit_is_readable_at_eighty_columns(ready: CommandLine) -> None:
    ready("run", ready.tenant, "--to", DEDICATED, "--yes", "--operator", "ada")
    terminal = Terminal(ready, "audit", "--tenant", ready.tenant)
    assert terminal.end() == 0
    lines = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", terminal.output).splitlines()
    assert len(lines) > 8
    assert all(len(line) <= 80 for line in lines), terminal.output


def test_a_list_fits_eighty_columns(ready: CommandLine) -> None:
    ready("run", ready.tenant, "--to", DEDICATED, "--yes", "--operator", "ada")
    terminal = Terminal(ready, "list")
    assert terminal.end() == 0
    lines = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", terminal.output).splitlines()
    assert all(len(line) <= 80 for line in lines), terminal.output
    assert "ada" in terminal.output
    assert str(ready.migration()["id"])[:8] in terminal.output


def test_colours_are_for_terminals_and_can_be_switched_off(ready: CommandLine) -> None:
    ready("run", ready.tenant, "--to", DEDICATED, "--yes")
    for more, coloured in (({"NO_COLOR": ""}, True), ({"NO_COLOR": "1"}, False)):
        terminal = Terminal(ready, "list", environment=more)
        assert terminal.end() == 0
        assert ("\x1b[32m" in terminal.output) is coloured, terminal.output
    assert "\x1b" not in ready("list").output


def test_a_cutover_that_timed_out_is_in_the_status_with_the_way_on(ready: CommandLine) -> None:
    ready.write_config("cutover_timeout_seconds = 0.5\n")
    ready("run", ready.tenant, "--to", DEDICATED)

    async def beside_a_report() -> tuple[int, str, dict[str, object]]:
        blocker = await asyncpg.connect(
            ready.source_dsn, server_settings={"application_name": "nightly-report"}
        )
        transaction = blocker.transaction()
        await transaction.start()
        await blocker.execute(
            "insert into events (event_id, aggregate_id, aggregate_type, event_type, tenant_id,"
            " version, timestamp, payload)"
            " values (gen_random_uuid(), gen_random_uuid(), 'A', 'E', $1, 1, now(), '{}')",
            ready.tenant,
        )
        plain = await asyncio.to_thread(ready, "cutover", "--tenant", ready.tenant, exit_code=5)
        document = await asyncio.to_thread(
            lambda: ready.json("cutover", "--tenant", ready.tenant, exit_code=5)
        )
        pid = blocker.get_server_pid()
        await blocker.close()
        return pid, plain.output, document["error"]

    pid, plain, error = asyncio.run(beside_a_report())
    assert f"select pg_terminate_backend({pid})" in plain
    assert "again     eventsource-migrate cutover" in plain
    assert "undo      eventsource-migrate abort" in plain
    steps = [step["command"] for step in error["next"]]  # type: ignore[attr-defined]
    assert f"select pg_terminate_backend({pid})" in steps
    shown = ready("status", "--tenant", ready.tenant).output
    assert re.search(r"^last cutover +\d\d:\d\d:\d\d the cutover did not fit", shown, re.MULTILINE)
    ready("cutover", "--tenant", ready.tenant)
    assert "last cutover" not in ready("status", "--tenant", ready.tenant).output


@pytest.mark.parametrize(
    "arguments",
    [
        ["fly"],
        ["list", "--fast"],
        ["run"],
        ["verify", "00000000-0000-0000-0000-000000000001", "--level", "deep"],
        ["verify", "00000000-0000-0000-0000-000000000001", "--sample", "101"],
        ["throttle", "abcd", "5k"],
        ["subscriptions", "fly"],
        ["--set"],
    ],
)
def test_a_mistake_is_json_where_json_was_asked_for(cli: CommandLine, arguments: list[str]) -> None:
    for given in ([*arguments, "--json"], ["--json", *arguments]):
        if "--set" in given and given[-1] != "--set":
            continue
        result = cli(*given, exit_code=2)
        error = json.loads(result.stdout)["error"]
        assert (error["code"], error["exit_code"]) == ("usage", 2)
        assert error["message"]
        assert all(step["command"] and step["what"] for step in error["next"]), error
        assert error["next"], error


def test_every_failure_in_json_has_next_steps(ready: CommandLine) -> None:
    ready.write_config(control="postgresql://nobody@127.0.0.1:1/none")
    assert ready.json("list", exit_code=1)["error"]["next"]
    ready.write_config()
    for arguments, exit_code in (
        (["--set", "defaults.batch_size=0", "list"], 2),
        (["run", ready.tenant, "--to", "nowhere"], 2),
        (["run", ready.other, "--from", DEDICATED, "--to", "shared"], 1),
        (["status", "00000000-0000-0000-0000-000000000001"], 1),
    ):
        error = ready.json(*arguments, exit_code=exit_code)["error"]
        assert all(step["command"] and step["what"] for step in error["next"]), error
        assert error["next"], error


def test_successes_have_next_steps_in_json(ready: CommandLine) -> None:
    started = ready.json("start", ready.tenant, "--to", DEDICATED)
    assert [step["what"] for step in started["next"]] == ["go on", "undo"]
    ready_ = ready.json("run", ready.tenant, "--to", DEDICATED)
    assert ready_["next"][0]["command"].endswith("--yes")
    moved = ready.json("cutover", "--tenant", ready.tenant)
    assert "subscriptions plan" in moved["next"][0]["command"]


def test_every_line_of_work_and_of_watching_begins_with_a_time(ready: CommandLine) -> None:
    ready("run", ready.tenant, "--to", DEDICATED, "--yes")
    watched = ready("status", "--tenant", ready.tenant, "--watch").output
    assert all(_TIME.match(line) for line in watched.splitlines()), watched
    ready("start", ready.other, "--to", DEDICATED)
    working = ready.popen("work")
    try:
        wait_until(lambda: ready.sql("control", _DUAL_WRITE) != [])
        time.sleep(1.5)
    finally:
        working.terminate()
    output, _ = working.communicate(timeout=30)
    lines = output.splitlines()
    assert len(lines) >= 2
    assert all(_TIME.match(line) for line in lines), output


_DUAL_WRITE = "select 1 from tenant_migrations where state = 'dual_write'"


def test_quiet_leaves_the_result_and_verbose_adds_the_log(ready: CommandLine) -> None:
    quiet = ready("run", ready.tenant, "--to", DEDICATED, "--yes", "-q")
    assert [line.split()[0] for line in quiet.stdout.splitlines()] == [
        "done", "next", "way",
    ]  # fmt: skip
    loud = ready("run", ready.other, "--to", DEDICATED, "--yes", "-v")
    assert re.search(r"INFO eventsource\.migration: migration .* migrated", loud.stderr)
    collected = ready("start", ready.other, "--to", "shared", "--log-format", "json", exit_code=3)
    for line in collected.stderr.splitlines():
        if line.startswith("{"):
            assert {"time", "level", "logger", "message"} <= set(json.loads(line))
    ready("list")  # and the next command is as it was
    import logging

    assert logging.getLogger("eventsource").level == logging.NOTSET


def test_every_help_names_the_options_of_all(cli: CommandLine) -> None:
    for verb in ("status", "run", "cutover", "demo"):
        shown = " ".join(cli(verb, "-h").output.split())
        assert "--json, --config, --set, --operator" in shown
        assert "[[" not in shown
        assert "{" not in shown


def test_a_version_takes_no_longer_than_ten_bare_interpreters() -> None:
    """It took 26 of them: everything that a move needs was imported first."""
    said = "import sys; sys.argv[1:] = ['--version']; from eventsource.cli import main; main()"
    taken: dict[str, list[float]] = {"pass": [], said: []}
    for _ in range(7):
        for code, times in taken.items():
            began = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
            times.append(time.perf_counter() - began)
    assert median(taken[said]) < 10 * median(taken["pass"])


def test_a_shell_completes_verbs_stores_and_migrations(ready: CommandLine) -> None:
    ready("run", ready.tenant, "--to", DEDICATED)
    id_ = str(ready.migration()["id"])
    for words, offered in (
        ("eventsource-migrate cut", "cutover"),
        ("eventsource-migrate run x --to ded", DEDICATED),
        ("eventsource-migrate abort ", id_),
        (f"eventsource-migrate cutover {id_[:4]}", id_),
    ):
        done = subprocess.run(
            [sys.executable, "-c", "from eventsource.cli import main; main()"],
            env={
                **os.environ,
                "EVENTSOURCE_CONFIG": str(ready.config),
                "_EVENTSOURCE_MIGRATE_COMPLETE": "complete_bash",
                "COMP_WORDS": words,
                "COMP_CWORD": str(len(words.split(" ")) - 1),
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert offered in done.stdout.split(), (words, done.stdout, done.stderr)


def test_what_a_silent_source_does_not_say_is_not_taken_for_none(
    ready: CommandLine, silent_port: int
) -> None:
    """How many may append there and have not reported is asked of it."""
    ready("start", ready.tenant, "--to", DEDICATED)
    assert "not known" not in ready("routers", "--tenant", ready.tenant).output
    ready.write_config(**{SHARED: f"postgresql://postgres:it@127.0.0.1:{silent_port}/app"})
    said = "how many sessions may append and have not reported is not known"
    for command in ("routers", "status"):
        output = ready(command, "--tenant", ready.tenant).output
        assert said in " ".join(output.split())
