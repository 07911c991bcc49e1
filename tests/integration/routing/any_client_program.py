"""Runs within an environment of other clients: each looks up a route, and is sent on by a store."""

import json
import sys
from urllib.parse import unquote, urlsplit

import pg8000.dbapi
import psycopg2
import sqlalchemy

from eventsource.any_client import find_route, moved_to


def pg8000_connection(dsn: str) -> object:
    parts = urlsplit(dsn)
    return pg8000.dbapi.connect(
        user=parts.username, password=unquote(parts.password or ""), host=parts.hostname,
        port=parts.port, database=parts.path.lstrip("/"),
    )  # fmt: skip


def tried(connection: object, statement: str) -> object:
    try:
        connection.cursor().execute(statement)
    except Exception as error:
        found = moved_to(error)
        return [type(error).__name__, found and [found.store_id, found.generation]]
    return "written"


def main() -> None:
    control, store, tenant, statement = sys.argv[1:]
    said = {}
    for name, connect in (("pg8000", pg8000_connection), ("psycopg2", psycopg2.connect)):
        route = find_route(connect(control), tenant)
        said[name] = [
            route and [route.store_id, route.generation],
            tried(connect(store), statement),
        ]
    dialect = "postgresql+psycopg2"
    engine = sqlalchemy.create_engine(control.replace("postgresql", dialect, 1))
    route = find_route(engine.raw_connection().driver_connection, tenant)
    with sqlalchemy.create_engine(store.replace("postgresql", dialect, 1)).connect() as connection:
        try:
            connection.execute(sqlalchemy.text(statement))
            refused = "written"
        except sqlalchemy.exc.DBAPIError as error:
            found = moved_to(error)
            refused = [type(error).__name__, found and [found.store_id, found.generation]]
    said["sqlalchemy"] = [route and [route.store_id, route.generation], refused]
    print(json.dumps(said))


main()
