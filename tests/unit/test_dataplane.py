"""The Python side of the data plane, without a server."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from uuid import UUID

from eventsource.connections import TableAddress
from eventsource.dataplane import DataPlaneError, PassSessionConfig

CANCELLED_AT_EXIT = """
import asyncio, socket
from eventsource.dataplane import Verification, VerifyConfig, TableAddress
from uuid import uuid4

async def main():
    silent = socket.create_server(("127.0.0.1", 0))
    port = silent.getsockname()[1]
    table = TableAddress(f"postgresql://u:p@127.0.0.1:{port}/db?sslmode=disable", "public", "e")
    columns = ("global_position", "event_id", "aggregate_id", "aggregate_type", "version")
    config = VerifyConfig(table, table, uuid4(), columns, 0, "hash")
    asyncio.create_task(Verification.start(config).result())
    await asyncio.sleep(0.2)

asyncio.run(main())
"""

AFTER_FORK = """
import asyncio, os, sys
from eventsource.dataplane import DataPlaneError, PassSession, PassSessionConfig, TableAddress
from uuid import uuid4

table = TableAddress("no dsn", "public", "e")
config = PassSessionConfig(
    uuid4(), uuid4(), uuid4(), table, table, "no dsn", "public", ("global_position", "event_id"),
    0, 0, 1, 1,
)

def kind():
    try:
        asyncio.run(PassSession.open(config))
    except DataPlaneError as error:
        return error.kind
    return None

assert kind() == "connect"
child = os.fork()
if child == 0:
    os._exit(0 if kind() == "protocol" else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env={**os.environ, "PYTHONWARNINGS": "ignore::DeprecationWarning"},
    )


def test_an_error_shows_its_message_and_survives_pickling() -> None:
    error = DataPlaneError("sql", "target database: no", {"side": "target", "sqlstate": "42P01"})
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.kind, again.sqlstate) == ("target database: no", "sql", "42P01")
    assert again.detail == error.detail


def test_no_repr_shows_a_password() -> None:
    dsn = "postgresql://u:hidden-secret@h/db"
    table = TableAddress(dsn, "public", "events")
    nobody = UUID(int=0)
    config = PassSessionConfig(
        nobody, nobody, nobody, table, table, dsn, "public", ("event_id",), 0, 0, 1, 1
    )
    assert "hidden-secret" not in repr(config)


def test_work_that_is_cancelled_when_the_loop_ends_leaves_no_trace() -> None:
    result = run(CANCELLED_AT_EXIT)
    assert (result.returncode, result.stderr) == (0, "")


def test_a_forked_child_is_told_instead_of_waiting_for_ever() -> None:
    result = run(AFTER_FORK)
    assert result.returncode == 0, result.stderr
