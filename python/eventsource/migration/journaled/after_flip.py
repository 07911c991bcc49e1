"""The statement of a layout that the target is given once the tenant lives there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import asyncpg

from eventsource import failpoints
from eventsource.connections import in_a_sentence, one_of
from eventsource.errors import StoreSchemaError
from eventsource.identifiers import quote_identifier, quote_literal
from eventsource.migration.connections.transactions import parsed
from eventsource.migration.failures import may_pass
from eventsource.retried import Retried
from eventsource.tenant_ids import TenantId, stored

if TYPE_CHECKING:
    from eventsource.migration.event_table import AnyTable, OwnTable
    from eventsource.migration.models import Migration
    from eventsource.migration.steps.decision import Decision


def _statement(target: AnyTable, tenant_id: TenantId, last: int) -> str | None:
    assert target.layout is not None
    if target.layout.after_flip is None:
        return None
    statement = target.layout.after_flip.replace(
        "{schema}", quote_identifier(target.address.schema)
    ).replace("{last_position}", str(last))
    # Last: its name may be anything.
    return statement.replace("{tenant}", quote_literal(stored(tenant_id)))


async def problems_of(target: AnyTable, tenant_id: TenantId) -> list[str]:
    """Why the target would not take it, as far as it says so without running it.

    Several statements in one are not looked at: a server takes them only to run them.
    """
    statement = _statement(target, tenant_id, 0)
    if statement is None:
        return []
    over = target.connection
    try:
        async with one_of(over.executor if isinstance(over, Retried) else over) as one:
            connection: Any = one
            await parsed(connection, statement)
    except asyncpg.PostgresSyntaxError as error:
        if ";" in statement.rstrip("; \n\t"):
            return []
        refused: asyncpg.PostgresError = error
    except asyncpg.PostgresError as error:
        if may_pass(error):
            raise
        refused = error
    else:
        return []
    return [
        "the target does not take the layout's after_flip, which is run once the tenant lives"
        f" there ({in_a_sentence(refused)}); correct the statement, or make what it needs"
    ]


async def run(target: OwnTable, migration: Migration, decided: Decision) -> None:
    """What the library needs at the target once the tenant lives there; may be repeated.

    Raises:
        StoreSchemaError: the target refuses it. Nothing of the tenant is wrong by that, so the
            migration waits until somebody has mended it.
    """
    statement = _statement(
        target, migration.tenant_id, decided.source_head + decided.position_offset
    )
    if statement is None:
        return
    try:
        await target.connection.execute(statement)
        if target.connection.is_in_transaction():
            # It has begun one and left it open: what comes next would be lost with it.
            await target.connection.execute("commit")
    except asyncpg.PostgresError as error:
        if target.connection.is_closed():
            raise
        raise StoreSchemaError(
            f"the tenant lives in {migration.target_store_id!r}, whose library needs the layout's"
            f" after_flip to have run, and it fails: {in_a_sentence(error)}; make what it needs, or"
            " correct the statement and start this process again"
        ) from error
    await failpoints.reach("layout.flip.committed")
