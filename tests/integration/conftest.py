"""What the tests of the control plane share."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator

import pytest

from eventsource.migration import background
from eventsource.testing import Cluster
from tests.support.worlds.emptying import Emptied, emptied
from tests.support.worlds.three_databases import World, make_world


@pytest.fixture
async def world(
    source_cluster: Cluster,
    target_cluster: Cluster,
    world_databases: dict[str, Emptied],
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[World]:
    """Three empty databases with stores and control tables, and one process."""
    monkeypatch.setattr(background, "POLL_SECONDS", 0.01)
    for side, cluster in (
        ("source", source_cluster),
        ("target", target_cluster),
        ("control", source_cluster),
    ):
        if side not in world_databases:
            world_databases[side] = Emptied(await cluster.create_database(f"world_{side}"))
    databases = [world_databases[side] for side in ("source", "target", "control")]
    there = await emptied(databases)
    made = await make_world({side: each.dsn for side, each in world_databases.items()}, made=there)
    if not there:
        await asyncio.gather(*(each.remember() for each in databases))
    yield made
    await made.close()


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that neither accepts nor refuses: its queue is full, so packets are dropped."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(16):
            client = stack.enter_context(socket.socket())
            client.settimeout(0.2)
            try:
                client.connect(listener.getsockname())
            except TimeoutError:
                break
        else:
            pytest.skip("this system does not drop what does not fit into the queue")
        yield listener.getsockname()[1]
