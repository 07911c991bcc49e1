"""Runs within pyeventsourcing's own environment: its tables, its appends, its reading."""

import json
import random
import sys
import threading
from urllib.parse import unquote, urlsplit

from eventsourcing.application import AggregateNotFoundError, Application
from eventsourcing.domain import Aggregate, event
from eventsourcing.persistence import IntegrityError, PersistenceError


class Order(Aggregate):
    def __init__(self, tenant: str) -> None:
        self.tenant = tenant
        self.lines = 0

    @event("LineAdded")
    def add(self, text: str) -> None:
        self.lines += 1


class Orders(Application):
    is_snapshotting_enabled = True
    snapshotting_intervals = {Order: 5}  # noqa: RUF012 — as the library has it


def application(dsn: str, schema: str, *, makes_tables: bool) -> Orders:
    parts = urlsplit(dsn)
    return Orders(
        env={
            "PERSISTENCE_MODULE": "eventsourcing.postgres",
            "POSTGRES_DBNAME": parts.path.lstrip("/"),
            "POSTGRES_HOST": str(parts.hostname),
            "POSTGRES_PORT": str(parts.port),
            "POSTGRES_USER": str(parts.username),
            "POSTGRES_PASSWORD": unquote(parts.password or ""),
            "POSTGRES_SCHEMA": schema,
            "POSTGRES_ORIGINATOR_ID_TYPE": "uuid",
            # Two processes that make the library's functions at one moment fail in the library.
            "CREATE_TABLE": "yes" if makes_tables else "no",
        }
    )


lock = threading.Lock()


def say(**what: object) -> None:
    with lock:
        print(json.dumps(what), flush=True)


def sqlstate(error: BaseException | None) -> str | None:
    while error is not None:
        if (state := getattr(error, "sqlstate", None)) is not None:
            return str(state)
        error = error.__cause__
    return None


def write(app: Orders, seed: int, stopping: threading.Event, changes: int) -> None:
    chosen = random.Random(seed)
    known: list = []
    number = 0
    while not stopping.is_set() and (changes == 0 or number < changes):
        number += 1
        try:
            if known and chosen.random() < 0.7:
                order = app.repository.get(chosen.choice(known))
            else:
                order = Order(tenant="a")
            for _ in range(chosen.randint(1, 3)):
                order.add("x" * 30)
            stored = app.save(order)
        except (IntegrityError, AggregateNotFoundError) as error:
            say(conflict=str(error))
            continue
        except PersistenceError as error:
            say(refused=sqlstate(error) or str(error))
            if sqlstate(error) == "EVF01":
                return
            continue
        known.append(order.id)
        say(stored=[[str(each.domain_event.originator_id), each.domain_event.originator_version]
                    for each in stored])  # fmt: skip
        stopping.wait(0.005)


def main() -> None:
    verb, dsn, schema, *rest = sys.argv[1:]
    app = application(dsn, schema, makes_tables=verb == "make")
    if verb == "write":
        stopping = threading.Event()
        changes = int(rest[1])
        threads = [
            threading.Thread(target=write, args=(app, seed, stopping, changes))
            for seed in range(int(rest[0]))
        ]
        for each in threads:
            each.start()
        if not changes:
            sys.stdin.readline()
            stopping.set()
        for each in threads:
            each.join()
    elif verb == "read":
        found, start = [], 1
        while page := app.notification_log.select(start=start, limit=10):
            found += [[each.id, str(each.originator_id), each.originator_version] for each in page]
            start = page[-1].id + 1
        lines = {each: app.repository.get(_uuid(each)).lines for each in {row[1] for row in found}}
        say(read=found, lines=lines)
    app.close()


def _uuid(text: str) -> object:
    from uuid import UUID

    return UUID(text)


main()
