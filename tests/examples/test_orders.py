"""The example application: through a move, restarts and the return, every order counts once."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID, uuid4

import httpx
import pytest

from eventsource.migration import MigrationCoordinator, create_schema
from eventsource.migration.repositories import (
    PostgreSQLMigrationRepository,
    PostgreSQLRoutingRepository,
)
from eventsource.testing import Cluster
from examples.orders.stores import Stores, opened
from tests.support import REPOSITORY

PATIENCE = 60.0


@dataclass
class Shop:
    """Where everything is, and the processes of the application."""

    environment: dict[str, str]
    directory: Path
    ports: list[int] = field(default_factory=list)
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self) -> int:
        """One more process; its port, which is listened on from here on."""
        with socket.create_server(("127.0.0.1", 0)) as listening:
            port = int(listening.getsockname()[1])
            with (self.directory / f"{port}.log").open("wb") as log:
                self.processes.append(
                    subprocess.Popen(
                        [sys.executable, "-m", "uvicorn", "--factory", "examples.orders.app:create",
                         "--fd", str(listening.fileno()), "--log-level", "warning"],
                        cwd=REPOSITORY, env=self.environment, stdout=log, stderr=log,
                        pass_fds=[listening.fileno()],
                    )
                )  # fmt: skip
        self.ports.append(port)
        return port

    def logs(self) -> str:
        return "\n".join(path.read_text() for path in self.directory.glob("*.log"))


@pytest.fixture
def shop(
    source_dsn: str,
    target_dsn: str,
    control_dsn: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Shop]:
    settings = {
        "SHARED_DSN": source_dsn,
        "DEDICATED_DSN": target_dsn,
        "CONTROL_DSN": control_dsn,
        "READ_DSN": control_dsn,
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    path = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "python")])
    made = Shop({**os.environ, **settings, "PYTHONPATH": path}, tmp_path)
    yield made
    for process in made.processes:
        process.terminate()
    for process in made.processes:
        process.wait(30)


async def health(port: int) -> dict[str, object] | None:
    try:
        async with httpx.AsyncClient(timeout=5) as client:
            answer = await client.get(f"http://127.0.0.1:{port}/health")
            return {"status": answer.status_code, **answer.json()}
    except httpx.HTTPError:
        return None


async def until_healthy(shop: Shop, port: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        found = await health(port)
        if found is not None and found["status"] == 200:
            return
        assert time.monotonic() < deadline, (found, shop.logs())
        await asyncio.sleep(0.2)


@asynccontextmanager
async def customers(shop: Shop, tenants: list[UUID]) -> AsyncIterator[dict[UUID, Counter[UUID]]]:
    """Orders at both processes until the block ends; those that were acknowledged, by tenant."""
    stop = asyncio.Event()
    acknowledged: dict[UUID, Counter[UUID]] = {tenant: Counter() for tenant in tenants}

    async def order(port: int, tenant: UUID) -> None:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            while not stop.is_set():
                try:
                    answer = await client.post(f"/tenants/{tenant}/orders", json={"amount": 100})
                    if answer.status_code == 200:
                        acknowledged[tenant][UUID(answer.json()["event_id"])] += 1
                except httpx.HTTPError:
                    pass  # whether it was stored is not known: the stores say so in the end
                await asyncio.sleep(0.02)

    tasks = [asyncio.create_task(order(port, tenant)) for port in shop.ports for tenant in tenants]
    try:
        yield acknowledged
    finally:
        stop.set()
        await asyncio.gather(*tasks)


async def move(stores: Stores, tenant: UUID, source: str, target: str) -> UUID:
    """As an operator moves a tenant; the id of the migration."""
    async with coordinating(stores) as coordinator:
        begun = await coordinator.start_migration(
            tenant, stores.by_id[source], stores.by_id[target], source, target
        )
        done = await coordinator.initiate_cutover(begun.id)
        assert done.state == "migrated"
        return begun.id


async def take_back(stores: Stores, migration: UUID) -> None:
    """By the way back that the move has kept, as it does by default."""
    async with coordinating(stores) as coordinator:
        done = await coordinator.return_migration(migration)
        assert (done.state, done.returns) == ("migrated", migration)


@asynccontextmanager
async def coordinating(stores: Stores) -> AsyncIterator[MigrationCoordinator]:
    coordinator = MigrationCoordinator(
        PostgreSQLMigrationRepository(stores.control),
        PostgreSQLRoutingRepository(stores.control),
        stores.router,
    )
    try:
        yield coordinator
    finally:
        await coordinator.close()


async def until(condition: Callable[[], object], shop: Shop) -> None:
    deadline = time.monotonic() + PATIENCE
    while not await condition():  # type: ignore[misc]
        assert time.monotonic() < deadline, shop.logs()
        await asyncio.sleep(0.2)


async def test_every_order_counts_once_through_moves_and_restarts(
    shop: Shop, source_cluster: Cluster, target_cluster: Cluster
) -> None:
    moving, staying = uuid4(), uuid4()
    async with opened() as stores:
        for store in stores.by_id.values():
            await store.create_schema()
        await create_schema(stores.control)
        await stores.create_schema()
        for _ in range(2):
            await until_healthy(shop, shop.start())
        async with customers(shop, [moving, staying]) as acknowledged:
            await asyncio.sleep(2)
            there = await move(stores, moving, "shared", "dedicated-a")
            await asyncio.sleep(2)
            target_cluster.restart()
            await asyncio.sleep(3)
            # The control database and the read models are on this server too.
            source_cluster.restart()
            await asyncio.sleep(4)
            await take_back(stores, there)
            await asyncio.sleep(2)
        for tenant in (moving, staying):
            events = {event.event_id async for event in stores.router.read_all(0, tenant_id=tenant)}
            assert acknowledged[tenant]
            assert set(acknowledged[tenant]) <= events
            for table in ("revenue", "mails"):

                async def all_there(
                    tenant: UUID = tenant, table: str = table, wanted: set[UUID] = events
                ) -> bool:
                    rows = await stores.read.fetch(
                        f"select event_id from {table} where tenant_id = $1", tenant
                    )
                    found = [row["event_id"] for row in rows]
                    assert set(found) <= wanted
                    return len(found) == len(wanted)

                await until(all_there, shop)
        for port in shop.ports:
            found = await health(port)
            assert found is not None
            assert found["background"] == {"projection": "running", "outbox": "running"}
    assert all(process.poll() is None for process in shop.processes)


async def test_a_process_starts_while_a_store_is_down(shop: Shop, target_cluster: Cluster) -> None:
    tenant = uuid4()
    async with opened() as stores:
        for store in stores.by_id.values():
            await store.create_schema()
        await create_schema(stores.control)
        await stores.create_schema()
    target_cluster.crash()
    try:
        port = shop.start()
        await until_healthy(shop, port)
        found = await health(port)
        assert found is not None
        assert found["stores"] == {"shared": True, "dedicated-a": False}
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            answer = await client.post(f"/tenants/{tenant}/orders", json={"amount": 7})
            assert answer.status_code == 200, shop.logs()
            deadline = time.monotonic() + PATIENCE
            while (await client.get(f"/tenants/{tenant}/revenue")).json()["amount"] != 7:
                assert time.monotonic() < deadline, shop.logs()
                await asyncio.sleep(0.2)
    finally:
        target_cluster.restart()
