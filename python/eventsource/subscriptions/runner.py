"""A small runner that hands a store's events to a handler, each at least once, in order."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING
from uuid import UUID

from eventsource.subscriptions.checkpoints import CheckpointRepository
from eventsource.subscriptions.delivery import Delivery, OnError
from eventsource.subscriptions.hearing import hearing
from eventsource.subscriptions.outages import DeliveryError, Outage, pause

if TYPE_CHECKING:
    from eventsource.stores.interface import EventStore, StoredEvent

__all__ = ["Subscription"]


class Subscription:
    """Reads one store from its checkpoint on and hands every event to ``handler``.

    Delivery is at least once: the checkpoint is saved after a whole batch was handled, so a batch
    that ends early (an error of the handler, a cancellation, a killed process) is delivered again
    from its beginning. A handler that has to count to one makes its effect idempotent by
    ``event_id``. Nothing is kept in memory between two batches: any process may carry on, and
    moving the checkpoint moves a running subscription with its next batch. Two runners of one
    subscription lose nothing, but both deliver.

    Positions belong to a store. When a tenant moves to another store its subscription becomes a
    new one over that store, from the checkpoint that ``SubscriptionMigrator`` made for it.

    `run` outlives its databases: over a lost connection or a restart it waits, tries again with
    growing pauses, and delivers the batch under way once more. The logger
    ``eventsource.subscriptions`` has one WARNING when that begins and one INFO when it is over.

    Args:
        name: names the subscription in its checkpoints.
        store: where to read. A router reads as well, but it follows a moving tenant to another
            store, whose positions mean something else: subscribe to the stores themselves.
        store_id: the id of that store, as in its routes.
        checkpoint_repo: where the checkpoint is kept.
        handler: called with one stored event at a time.
        tenant_id: read this tenant only, with a checkpoint of its own; None reads all tenants.
        batch_size: events read at once and held in memory.
        poll_interval: seconds between two looks at a store that had nothing more. What a router
            appends in any process is looked at sooner.
        on_error: awaited with a ``HandlerError`` for each event whose handling failed. When it
            returns, the event counts as handled; what it raises comes through. Without it the
            handler's exception does, with a note that names the event. It does not see lost
            connections: those are no fault of the event.
    """

    def __init__(
        self,
        name: str,
        store: EventStore,
        store_id: str,
        checkpoint_repo: CheckpointRepository,
        handler: Callable[[StoredEvent], Awaitable[None]],
        tenant_id: UUID | None = None,
        *,
        batch_size: int = 500,
        poll_interval: float = 0.5,
        on_error: OnError | None = None,
    ) -> None:
        if not name or not store_id:
            raise ValueError("a subscription needs a name and the id of its store")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        if not poll_interval > 0:
            raise ValueError(f"poll_interval must be above 0 seconds, not {poll_interval}")
        self.name = name
        self.store = store
        self.store_id = store_id
        self.tenant_id = tenant_id
        self.batch_size = batch_size
        self.poll_interval = poll_interval
        self._checkpoints = checkpoint_repo
        self._delivery = Delivery(name, store_id, handler, on_error)
        self._stop = asyncio.Event()
        self._news = asyncio.Event()

    async def position(self) -> int:
        """The checkpoint's position; 0 when there is none, which lies before every event."""
        checkpoint = await self._checkpoints.get(self.name, self.store_id, self.tenant_id)
        return checkpoint.position if checkpoint is not None else 0

    async def run_once(self) -> int:
        """Deliver one batch and save the checkpoint; returns the number of events.

        An exception of handler or store comes through as it is, with the checkpoint where it was.
        """
        try:
            return await self._batch()
        except DeliveryError as failed:
            error = failed.error
        raise error

    async def _batch(self) -> int:
        checkpoint = await self._checkpoints.get(self.name, self.store_id, self.tenant_id)
        position = checkpoint.position if checkpoint is not None else 0
        # Read to the end first: no connection is held while handlers run.
        batch = [
            event
            async for event in self.store.read_all(
                position, tenant_id=self.tenant_id, limit=self.batch_size
            )
        ]
        for event in batch:
            await self._delivery.deliver(event)
        if batch:
            await self._checkpoints.save(
                self.name, self.store_id, batch[-1].global_position, self.tenant_id
            )
        elif checkpoint is None and self.tenant_id is None:
            # A plan has to know who reads an empty store: a tenant that arrives is news there.
            await self._checkpoints.save_if_absent(self.name, self.store_id, 0)
        return len(batch)

    async def catch_up(self) -> int:
        """Deliver until the store had nothing more; returns the number of events.

        It ends with the first batch that is not full, also while writers go on.
        """
        delivered = 0
        while True:
            handled = await self.run_once()
            delivered += handled
            if handled < self.batch_size:
                return delivered

    async def run(self) -> None:
        """Deliver until `stop`, an exception that waiting does not heal, or cancellation.

        A database that is away or restarts is waited for without end. What ends it: an exception
        of the handler (see ``on_error``), a missing table, a pool that was closed.

        Cancelling the task (Ctrl-C under ``asyncio.run`` does) ends it at once and delivers the
        current batch again next time; `stop` ends it after that batch, with nothing to repeat.
        """
        try:
            async with hearing(self.store, self._news.set):
                await self._run_on()
        except DeliveryError as failed:
            error = failed.error
        else:
            return
        finally:
            self._stop.clear()
        raise error

    async def _run_on(self) -> None:
        outage = Outage(f"subscription {self.name!r} over store {self.store_id!r}")
        while not self._stop.is_set():
            self._news.clear()
            try:
                delivered = await self._batch()
            except Exception as error:
                await outage.sit_out(error, self._stop)
                continue
            outage.over()
            if delivered < self.batch_size and not self._stop.is_set():
                await pause(self.poll_interval, self._news)

    def stop(self) -> None:
        """Make `run` return after the current batch; from another thread, by the loop's
        ``call_soon_threadsafe``."""
        self._stop.set()
        self._news.set()
