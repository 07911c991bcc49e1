"""A store of another library: a place that tenants move from and to, which that library reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from eventsource import connections
from eventsource.errors import StoreSchemaError
from eventsource.identifiers import qualified
from eventsource.migration.layouts.declaration import Layout
from eventsource.stores import schema_setup
from eventsource.stores.postgresql import PostgreSQLEventStore

if TYPE_CHECKING:
    from asyncpg.pool import Pool


class LayoutStore(PostgreSQLEventStore):
    """The tables of a layout in one schema of a PostgreSQL database.

    Nothing here appends or reads events: the library that made the tables does.

    Args:
        pool: an asyncpg pool; the store never closes it.
        layout: what the tables are.
        dsn, password, schema: as for a :class:`PostgreSQLEventStore`; the schema may come from the
            layout.
    """

    layout: Layout

    def __init__(
        self,
        pool: Pool[Any],
        layout: Layout,
        *,
        dsn: connections.Secret | None = None,
        password: connections.Secret | None = None,
        schema: str | None = None,
    ) -> None:
        super().__init__(
            pool, layout.events, dsn=dsn, password=password, schema=schema or layout.schema
        )
        self.layout = layout

    def __repr__(self) -> str:
        return f"LayoutStore({self.layout.name!r}, {self.table})"

    async def resolve_schema(self) -> str:
        """The schema that holds the tables.

        Raises:
            StoreSchemaError: there is no such table.
        """
        if self.schema is not None:
            return self.schema
        async with self.pool.acquire() as connection:
            schema = await connection.fetchval(
                "select n.nspname::text from pg_class c join pg_namespace n"
                " on n.oid = c.relnamespace where c.oid = to_regclass($1)",
                self.table,
            )
        if schema is None:
            raise StoreSchemaError(
                f"layout {self.layout.name!r} names {self.table}, which the search path of this"
                " database does not lead to: name its schema, or give the table its name back"
            )
        return str(schema)

    async def create_schema(self) -> None:
        """Make what stands beside the tables; of the tables themselves nothing is changed.

        Raises:
            StoreSchemaError: one of the tables is not there.
        """
        schema = await self.resolve_schema()
        connection = await connections.connect(
            await self.connection_parameters(), application_name="eventsource create_schema"
        )
        try:
            await self.examine(connection, schema)
            await schema_setup.create_objects(connection, schema)
        finally:
            await connection.close()

    async def examine(self, connection: Any, schema: str) -> None:
        """Look for the tables.

        Raises:
            StoreSchemaError: one is not there.
        """
        missing = [
            qualified(schema, each.name)
            for each in self.layout.tables
            if await connection.fetchval(
                "select to_regclass($1) is null", qualified(schema, each.name)
            )
        ]
        if missing:
            raise StoreSchemaError(
                f"layout {self.layout.name!r} names {', '.join(missing)}, which this database has"
                f" not: let the library make its tables first, or name their schema"
            )

    async def append_events(self, *_: Any, **__: Any) -> NoReturn:
        """Refused: see the class."""
        self._refuse()

    async def get_events(self, *_: Any, **__: Any) -> NoReturn:
        """Refused: see the class."""
        self._refuse()

    def read_stream(self, *_: Any, **__: Any) -> NoReturn:
        """Refused: see the class."""
        self._refuse()

    def read_all(self, *_: Any, **__: Any) -> NoReturn:
        """Refused: see the class."""
        self._refuse()

    def read_backwards(self, *_: Any, **__: Any) -> NoReturn:
        """Refused: see the class."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise StoreSchemaError(
            f"{self.table} is read and written by its own library ({self.layout.title}), not here"
        )
