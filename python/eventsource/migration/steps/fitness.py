"""Whether two tables still fit each other, asked again before something depends on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventsource.catalog.two_sides import compare
from eventsource.migration import event_table
from eventsource.migration.errors import PreflightError
from eventsource.migration.tables import read_only, reserved_block

if TYPE_CHECKING:
    from eventsource.catalog.model import TableCatalog
    from eventsource.catalog.two_sides import Comparison
    from eventsource.migration.connections.driver_connections import DriverConnections
    from eventsource.migration.event_table import Seen
    from eventsource.migration.models import Migration


def refuse(source: TableCatalog, target: TableCatalog, fire: bool, *, block: bool) -> Comparison:
    """Compare two catalogs.

    Args:
        block: the tenant's positions have still to be reserved.

    Raises:
        PreflightError: something that would have refused the start is so now.
    """
    compared = compare(source, target, fire=fire, block=block)
    problems = [str(each) for each in compared.findings if each.refuses]
    if problems:
        raise PreflightError(problems)
    return compared


async def check(connections: DriverConnections, migration: Migration) -> Seen:
    """Before writers are made to wait: everything that refused a start, and enough numbers ahead.

    What was seen is for the steps that come at once.

    Raises:
        PreflightError: see :func:`refuse`.
    """
    seen = await event_table.seen(connections.source, connections.target)
    compared = refuse(seen.source, seen.target, migration.config.fires, block=False)
    if problems := await read_only.problems_of(connections.target):
        raise PreflightError(problems)
    await reserved_block.advance(connections.target, compared.drawn)
    return seen
