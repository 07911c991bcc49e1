"""A process that appends and changes as a library does, and writes down what it was answered.

Two lines for each attempt, in one system call each: before it is made, and what came of it. The
second one is missing where the process died meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4, uuid5

import asyncpg

from tests.layouts.torture.libraries import LIBRARIES, Library
from tests.support.worlds.layouts import SOURCE, TARGET

#: Streams of a tenant that all writers append to.
SHARED_STREAMS = 3

Act = Callable[[asyncpg.Connection], Awaitable[None]]

#: Refusals that a library meets, and after which its application tries again.
EXPECTED = ("23505", "40001", "55P03", "EVF01", "EVF03")

#: The session or the server is gone.
_GONE = ("08", "57P0")


@dataclass(frozen=True)
class Attempt:
    """An append, or a change of a stream; ``outcome`` is ok, refused, unknown or error.

    ``ids`` are events that were appended, or that the stream had; ``value`` what they have after
    the change, None of an append.
    """

    writer: str
    number: int
    tenant: str
    stream: str
    store: str
    ids: list[str]
    value: str | None = None
    outcome: str = "unknown"
    error: str = ""


def read(path: Path) -> list[Attempt]:
    """All that a writer has written down so far, in its order."""
    found: dict[int, dict[str, Any]] = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        fields = json.loads(line)
        found.setdefault(fields["number"], {}).update(fields)
    return [Attempt(**fields) for fields in found.values()]


def run(config: dict[str, Any]) -> None:
    """The whole process."""
    asyncio.run(Writer(config).run())


@dataclass
class Writer:
    config: dict[str, Any]
    stopping: bool = False
    number: int = 0
    file: int = field(init=False)

    async def run(self) -> None:
        self.file = os.open(self.config["records"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self.stop)
        library = LIBRARIES[self.config["preset"]]
        tasks = [
            _Task(self, library, tenant, random.Random(f"{self.config['seed']}/{tenant}/{number}"))
            for tenant in self.config["tenants"]
            for number in range(self.config["tasks"])
        ]
        await asyncio.gather(*(task.run() for task in tasks))

    def stop(self) -> None:
        self.stopping = True

    def note(self, **fields: Any) -> None:
        os.write(self.file, (json.dumps(fields) + "\n").encode())


@dataclass
class _Task:
    writer: Writer
    library: Library
    tenant: str
    chance: random.Random
    store: str = SOURCE
    connection: asyncpg.Connection | None = None
    own: dict[str, list[str]] = field(default_factory=dict)

    async def run(self) -> None:
        config = self.writer.config
        while not self.writer.stopping:
            await asyncio.sleep(config["rest"] * 2 * self.chance.random())
            try:
                await self._connected()
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError):
                continue
            if self.own and self.library.change and self.chance.random() < config["changes"]:
                await self._change(self.chance.choice(list(self.own)))
            else:
                await self._append()
        if self.connection is not None:
            self.connection.terminate()

    async def _connected(self) -> None:
        if self.connection is not None and not self.connection.is_closed():
            return
        config = self.writer.config
        settings = {"default_transaction_isolation": config["isolation"]}
        if config["replica_role"]:
            settings["session_replication_role"] = "replica"
        self.connection = await asyncpg.connect(
            config["dsns"][self.store], server_settings=settings, timeout=5
        )

    async def _append(self) -> None:
        stream = self._stream()
        ids = [str(uuid4()) for _ in range(self.chance.randint(1, self.writer.config["most"]))]
        if stream in self.own:
            # Nobody knows whether those of a lost answer are there: a change may change them too.
            self.own[stream] += ids

        async def append(connection: asyncpg.Connection) -> None:
            await self.library.append(connection, self.tenant, stream, ids)

        await self._attempt(stream, ids, append, None)

    def _stream(self) -> str:
        if self.chance.random() < 0.4:
            shared = self.chance.randrange(SHARED_STREAMS)
            return str(uuid5(UUID(int=shared), self.tenant))
        if len(self.own) < 4:
            stream = str(uuid4())
            self.own[stream] = []
            return stream
        return self.chance.choice(list(self.own))

    async def _change(self, stream: str) -> None:
        number = self.writer.number + 1

        async def change(connection: asyncpg.Connection) -> None:
            assert self.library.change is not None
            await self.library.change(connection, self.tenant, stream, number)

        await self._attempt(stream, list(self.own[stream]), change, self.library.changed(number))

    async def _attempt(self, stream: str, ids: list[str], act: Act, value: str | None) -> None:
        writer = self.writer
        writer.number += 1
        number = writer.number
        writer.note(
            writer=writer.config["name"], number=number, tenant=self.tenant, stream=stream,
            store=self.store, ids=ids, value=value,
        )  # fmt: skip
        assert self.connection is not None
        outcome, error = "ok", ""
        try:
            await self._in_a_transaction(act)
        except asyncpg.PostgresError as failed:
            outcome, error = self._judged(failed)
        except (OSError, asyncpg.InterfaceError, TimeoutError) as failed:
            outcome, error = "unknown", type(failed).__name__
        writer.note(number=number, outcome=outcome, error=error)
        if value is not None and outcome != "refused":
            self.own.pop(stream, None)
        if outcome == "unknown":
            self.connection.terminate()
        if error == "EVF01" and not writer.config["frozen"] and self.store == SOURCE:
            self.store = TARGET
            self.connection.terminate()

    async def _in_a_transaction(self, act: Act) -> None:
        assert self.connection is not None
        if self.chance.random() >= self.writer.config["slow_commits"]:
            await act(self.connection)
            return
        async with self.connection.transaction():
            await act(self.connection)
            await asyncio.sleep(0.2 * self.chance.random())

    def _judged(self, failed: asyncpg.PostgresError) -> tuple[str, str]:
        state = str(failed.sqlstate)
        if state.startswith(_GONE):
            return "unknown", state
        if state == "40P01" and self.writer.config["deadlocks"]:
            return "refused", state
        if state not in EXPECTED:
            return "error", f"{state} {failed}"
        if state == "EVF01":
            with contextlib.suppress(json.JSONDecodeError, TypeError):
                told = json.loads(failed.detail or "")
                if told["target_store_id"] == TARGET and set(told) == {
                    "target_store_id",
                    "generation",
                    "migration_id",
                }:
                    return "refused", state
            return "error", f"EVF01 with the detail {failed.detail!r}"
        return "refused", state
