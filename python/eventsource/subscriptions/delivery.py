"""One event to one handler, and what becomes of its error."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from eventsource.errors import HandlerError
from eventsource.subscriptions.outages import DeliveryError

if TYPE_CHECKING:
    from eventsource.stores.interface import StoredEvent

    Handler = Callable[[StoredEvent], Awaitable[None]]

OnError = Callable[[HandlerError], Awaitable[None]]


class Delivery:
    """Hands events of one store to a handler.

    Args:
        on_error: see ``Subscription``.
    """

    __slots__ = ("_handler", "_name", "_on_error", "_store_id")

    def __init__(
        self, name: str, store_id: str, handler: Handler, on_error: OnError | None
    ) -> None:
        self._name = name
        self._store_id = store_id
        self._handler = handler
        self._on_error = on_error

    async def deliver(self, event: StoredEvent) -> None:
        """Return when the event counts as handled.

        Raises:
            DeliveryError: handler or ``on_error`` raised; it has their exception.
        """
        try:
            await self._handler(event)
        except Exception as error:
            failed = DeliveryError(error)
            named = HandlerError(self._name, self._store_id, event.event_id, event.global_position)
            if failed.lost or self._on_error is None:
                error.add_note(str(named))
                raise failed from None
            named.__cause__ = error
            try:
                await self._on_error(named)
            except Exception as raised:
                raise DeliveryError(raised) from None
