"""What happens in the shop."""

from __future__ import annotations

from eventsource import DomainEvent, register_event


@register_event
class OrderPlaced(DomainEvent):
    """A customer has ordered for an amount in cents."""

    aggregate_type: str = "Order"
    amount: int
