"""The web service. Run two of it:

uvicorn --factory examples.orders.app:create --port 8001
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from uuid import UUID, uuid4

from fastapi import FastAPI, Response
from pydantic import BaseModel

from eventsource import ExpectedVersion
from eventsource.migration import TenantTransaction
from examples.orders import workers
from examples.orders.events import OrderPlaced
from examples.orders.stores import AnyPool, Stores, opened


class NewOrder(BaseModel):
    """What a customer sends."""

    amount: int


def create() -> FastAPI:
    """The application with what it runs in the background."""
    known: list[Stores] = []
    background: dict[str, asyncio.Task[None]] = {}

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None, None]:
        async with opened() as stores:
            known.append(stores)
            for name, lock, work in (
                ("projection", workers.PROJECTION, workers.project),
                ("outbox", workers.OUTBOX, workers.send_mails),
            ):
                background[name] = asyncio.create_task(
                    workers.alone(stores.read, lock, partial(work, stores)), name=name
                )
            yield
            # Before the pools are closed, which they use.
            for task in background.values():
                task.cancel()
            await asyncio.gather(*background.values(), return_exceptions=True)

    app = FastAPI(lifespan=lifespan)

    @app.post("/tenants/{tenant_id}/orders")
    async def place(tenant_id: UUID, order: NewOrder) -> dict[str, UUID]:
        """Store the event and the mail about it, both or neither, wherever the tenant lives."""
        placed = OrderPlaced(aggregate_id=uuid4(), tenant_id=tenant_id, amount=order.amount)

        async def store(at: TenantTransaction) -> None:
            await at.append_events(
                placed.aggregate_id, "Order", [placed], ExpectedVersion.NO_STREAM
            )
            await at.connection.execute(
                "insert into outbox (event_id, tenant_id, body) values ($1, $2, $3)",
                placed.event_id, tenant_id, f"thank you for {order.amount}",
            )  # fmt: skip

        await known[0].router.transaction(tenant_id, store)
        return {"event_id": placed.event_id}

    @app.get("/tenants/{tenant_id}/revenue")
    async def revenue(tenant_id: UUID) -> dict[str, int]:
        """What the projection has counted so far."""
        row = await known[0].read.fetchrow(
            "select coalesce(sum(amount), 0)::bigint as amount, count(*) as orders"
            " from revenue where tenant_id = $1",
            tenant_id,
        )
        assert row is not None
        return {"amount": row["amount"], "orders": row["orders"]}

    @app.get("/health")
    async def health(response: Response) -> dict[str, object]:
        """Whether this process can serve. A store that is down is shown, and is no reason to die:
        the tenants of the others are served."""
        stores = known[0]
        answers = {name: await _answers(store.pool) for name, store in stores.by_id.items()}
        control = await _answers(stores.control)
        working = {name: _state(task) for name, task in background.items()}
        if set(working.values()) != {"running"} or not any(answers.values()):
            response.status_code = 503
        return {"stores": answers, "control": control, "background": working}

    return app


def _state(task: asyncio.Task[None]) -> str:
    """Running, or what has ended it."""
    if not task.done():
        return "running"
    return "cancelled" if task.cancelled() else repr(task.exception())


async def _answers(pool: AnyPool) -> bool:
    try:
        async with asyncio.timeout(1):
            await pool.fetchval("select 1")
    except Exception:
        return False
    return True
