"""`status` says that another library's routing table lags, since when, and why."""

from __future__ import annotations

import json

from tests.support.command_line import DEDICATED, CommandLine, wait_until


def hook(cli: CommandLine, dsn: str) -> None:
    """Let a statement in this database follow the routes."""
    cli.write_config(
        "[route_hook]\n"
        f"dsn = {json.dumps(dsn)}\n"
        'sql = "update homes set store = {store} where tenant = {tenant}"\n'
    )


def test_a_route_hook_that_waits_is_shown_until_it_was_run(ready: CommandLine) -> None:
    hook(ready, ready.control_dsn)
    ready("run", ready.tenant, "--to", DEDICATED, "--yes", exit_code=None)
    shown = ready("status", "--tenant", ready.tenant).output
    (line,) = [each for each in shown.splitlines() if each.startswith("route hook")]
    changed = ready.sql("control", "select updated_at from tenant_routing")[0][0]
    since = changed.astimezone().isoformat(sep=" ", timespec="seconds")
    assert f"does not have the route of {since} yet" in line
    assert 'relation "homes" does not exist' in line
    late = ready.json("status", "--tenant", ready.tenant)["route_hook"]
    assert "homes" in late["error"]

    # Taken out of the configuration: what it still had to do is said all the same.
    with_hook = ready.config.read_text()
    ready.write_config()
    assert "route hook" in ready("status", "--tenant", ready.tenant).output

    ready.config.write_text(with_hook)
    ready.sql("control", "create table homes (tenant text, store text)")
    with_work = ready.popen("work")
    try:
        wait_until(lambda: ready.json("status", "--tenant", ready.tenant)["route_hook"] is None)
    finally:
        with_work.terminate()
        with_work.communicate(timeout=30)
    assert "route hook" not in ready("status", "--tenant", ready.tenant).output


def test_without_a_hook_nothing_waits_for_one(ready: CommandLine) -> None:
    ready("run", ready.tenant, "--to", DEDICATED, "--yes")
    assert ready.json("status", "--tenant", ready.tenant)["route_hook"] is None
    assert "route hook" not in ready("status", "--tenant", ready.tenant).output
