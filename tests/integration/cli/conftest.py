"""A command line for each test."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.command_line import CommandLine


@pytest.fixture
def cli(
    source_dsn: str,
    target_dsn: str,
    control_dsn: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> CommandLine:
    """Three empty databases and a configuration for them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EVENTSOURCE_CONFIG", raising=False)
    made = CommandLine(source_dsn, target_dsn, control_dsn, tmp_path)
    made.write_config()
    return made


@pytest.fixture
def ready(cli: CommandLine) -> CommandLine:
    """The same after `init`, with 400 events of the tenant and 40 of another."""
    cli("init")
    cli.seed(400)
    return cli
