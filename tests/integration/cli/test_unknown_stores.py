"""A configuration that lacks a store of a migration: nothing moves then, and it is said why."""

from __future__ import annotations

import json
import signal
import threading

import pytest

from tests.support.command_line import DEDICATED, SHARED, CommandLine, wait_until


@pytest.mark.parametrize("verb", ["work", "cutover", "abort"])
def test_a_process_that_lacks_a_store_names_it(ready: CommandLine, verb: str) -> None:
    """`work` was silent about it, and the others waited for good for a process that has it."""
    ready("run", ready.tenant, "--to", DEDICATED)
    elsewhere = ready.config.with_name("elsewhere.toml")
    elsewhere.write_text(
        f'default_store = "{SHARED}"\ncontrol = {{ dsn = {json.dumps(ready.control_dsn)} }}\n'
        f"[stores.{SHARED}]\ndsn = {json.dumps(ready.source_dsn)}\n"
        f"[stores.renamed]\ndsn = {json.dumps(ready.target_dsn)}\n"
    )
    asked = ["work"] if verb == "work" else [verb, "--tenant", ready.tenant, "--yes"]
    command = ready.popen("--config", elsewhere, *asked)
    assert command.stdout is not None
    # A line that never comes ends with the command.
    patience = threading.Timer(20, command.kill)
    patience.start()
    try:
        assert any(f"configuration has no store '{DEDICATED}'" in line for line in command.stdout)
    finally:
        patience.cancel()
        command.send_signal(signal.SIGINT)
        command.communicate()
    # What was asked is carried out where the stores are known.
    working = ready.popen("work")
    ends = {"work": "dual_write", "cutover": "migrated", "abort": "rolled_back"}
    try:
        wait_until(lambda: str(ready.migration()["state"]) == ends[verb])
    finally:
        working.send_signal(signal.SIGINT)
        working.communicate()
