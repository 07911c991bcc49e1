"""What a command says of connections that it has given up: nothing."""

from __future__ import annotations

import asyncio
import contextlib
import gc

import asyncpg
import pytest

from eventsource.cli import invocation
from tests.support.command_line import CommandLine

#: Turns of the loop until connecting is cancelled: in some of the first the socket is open already.
TURNS = range(10)


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """Without a handler of its own the log is what a terminal shows."""
    caplog.set_level("WARNING", logger="asyncio")
    return caplog


async def _give_up(dsn: str) -> None:
    for turns in TURNS:
        connecting = asyncio.create_task(asyncpg.connect(dsn))
        for _ in range(turns):
            await asyncio.sleep(0)
        connecting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            (await connecting).terminate()
        await asyncio.sleep(0.01)
        gc.collect()


def test_a_connection_that_was_given_up_is_no_message(
    cli: CommandLine, said: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        await _give_up(cli.source_dsn)

    asyncio.run(work())
    assert "unexpected connection_lost() call" in said.text, "asyncpg has mended it"
    said.clear()
    asyncio.run(invocation._main(work, []))
    assert said.text == ""


def test_what_else_nobody_waited_for_is_a_message(said: pytest.LogCaptureFixture) -> None:
    async def lost() -> None:
        raise ConnectionResetError("of a task")

    async def work() -> None:
        # Neither is kept: nobody asks them.
        asyncio.create_task(lost())  # noqa: RUF006
        asyncio.get_running_loop().create_future().set_exception(ValueError("of a future"))
        await asyncio.sleep(0)
        gc.collect()

    asyncio.run(invocation._main(work, []))
    assert "of a task" in said.text
    assert "of a future" in said.text
