"""One event to one handler, and what becomes of its error."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from eventsource.errors import HandlerError
from eventsource.subscriptions.outages import DeliveryError, found_closed

if TYPE_CHECKING:
    from uuid import UUID

    from eventsource.stores.interface import StoredEvent

    Handler = Callable[[StoredEvent], Awaitable[None]]

OnError = Callable[[HandlerError], Awaitable[None]]

#: So often in a row a handler may find its connection closed; more, and nobody opens it again.
CLOSED_IN_A_ROW = 3


class Delivery:
    """Hands events of one store to a handler.

    Args:
        on_error: see ``Subscription``.
    """

    __slots__ = ("_closed", "_closed_at", "_handler", "_name", "_on_error", "_store_id")

    def __init__(
        self, name: str, store_id: str, handler: Handler, on_error: OnError | None
    ) -> None:
        self._name = name
        self._store_id = store_id
        self._handler = handler
        self._on_error = on_error
        self._closed = 0
        self._closed_at: UUID | None = None

    async def deliver(self, event: StoredEvent) -> None:
        """Return when the event counts as handled.

        Raises:
            DeliveryError: handler or ``on_error`` raised; it has their exception.
        """
        try:
            await _uncancelled("the handler", self._handler(event))
        except Exception as error:
            failed = DeliveryError(error)
            if failed.lost:
                failed.lost = self._may_be_opened_again(event, error)
            named = HandlerError(self._name, self._store_id, event.event_id, event.global_position)
            if failed.lost or self._on_error is None:
                error.add_note(str(named))
                raise failed from None
            named.__cause__ = error
            try:
                await _uncancelled("on_error", self._on_error(named))
            except Exception as raised:
                raise DeliveryError(raised) from None
        if event.event_id == self._closed_at:
            self._closed, self._closed_at = 0, None

    def _may_be_opened_again(self, event: StoredEvent, error: Exception) -> bool:
        """False where a handler keeps one connection, finds it closed, and opens no other."""
        if not found_closed(error):
            self._closed = 0
            return True
        self._closed, self._closed_at = self._closed + 1, event.event_id
        return self._closed <= CLOSED_IN_A_ROW


async def _uncancelled(what: str, work: Awaitable[None]) -> None:
    """Await it; a CancelledError of its own is an error, and cancels nobody.

    A task that ends with one counts as cancelled: its group goes on, and nobody reads the store.
    """
    try:
        await work
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise RuntimeError(
            f"{what} ended with CancelledError, and nobody has cancelled the subscription: await"
            " what may be cancelled elsewhere in a try block"
        ) from error
