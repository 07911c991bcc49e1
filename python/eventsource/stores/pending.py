"""What making or upgrading a schema would run, as statements: nothing is changed.

The code that upgrades is run over a connection that reads for real and writes down the rest. So
what is shown cannot differ from what is done.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, cast

from eventsource.identifiers import qualified
from eventsource.stores import schema_setup

if TYPE_CHECKING:
    from eventsource.connections import AnyConnection

#: Settings, locks and transactions of the session that makes the tables: no part of what it
#: makes, and what it looks at has to be looked at under them.
_ASIDE = re.compile(
    r"\s*(set (local|transaction)|select pg_advisory|begin\b|savepoint\b|rollback\b)", re.IGNORECASE
)

#: Not before the table is there, whose sequence the server names.
_TRIGGER = """do $make$ begin
    execute format('create trigger eventsource_announce before insert or update or delete'
                   ' on {quoted} for each statement execute function {function}(%L)',
                   pg_get_serial_sequence('{quoted}', 'global_position'));
    alter table {table} enable always trigger eventsource_announce;
end $make$"""


class Recorder:
    """A connection that answers what is asked, and keeps what it is given to execute."""

    def __init__(self, connection: AnyConnection) -> None:
        self._connection = connection
        self.statements: list[str] = []

    async def execute(self, statement: str, *arguments: Any, **_: Any) -> str:
        if _ASIDE.match(statement):
            return str(await self._connection.execute(statement, *arguments))
        for number, value in enumerate(arguments, 1):
            statement = statement.replace(f"${number}", str(int(value)))
        self.statements.append(statement.strip().rstrip(";"))
        return ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


async def recorded(
    connection: AnyConnection, make: Callable[[AnyConnection], Awaitable[object]]
) -> list[str]:
    """What ``make`` would execute; it gets a connection and looks before it changes anything."""
    recorder = Recorder(connection)
    await make(cast("AnyConnection", recorder))
    return recorder.statements


async def of_store(connection: AnyConnection, schema: str | None, name: str) -> list[str]:
    """What `schema_setup.create_schema` would run for an event table, in its order.

    Raises:
        StoreSchemaError: the table exists and cannot be upgraded; the message names the fix.
    """
    if await schema_setup.examine(connection, schema, name) is None:
        home = schema or await schema_setup.home_schema(connection)
        table = qualified(home, name)
        function = qualified(home, "eventsource_announce")
        trigger = (
            _TRIGGER.replace("{quoted}", table.replace("'", "''"))
            .replace("{function}", function.replace("'", "''"))
            .replace("{table}", table)
        )
        return [*schema_setup.creation(home, name), *schema_setup.scripts(home), trigger]
    return await recorded(
        connection, lambda recorder: schema_setup.create_schema(recorder, schema, name)
    )
