"""The statements that sessions really send, read from the server's log, and the plans for them."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import asyncpg

from eventsource.testing import Cluster

# `log_line_prefix` is that of `eventsource.testing`: time, process id, application@database.
_ENTRY = re.compile(
    r"\[(?P<pid>\d+)\] (?P<application>.*)@(?P<database>\S+) (?:LOG|DETAIL):  "
    r"(?P<kind>statement|execute [^:]+|[Pp]arameters): (?P<text>.*)"
)
_PARAMETER = re.compile(r"\$\d+ = (NULL|'(?:[^']|'')*')")
#: Settings, and the stage of a catch-up pass.
_MAKES_THE_SESSION = ("set ", "begin; set local synchronous_commit = off; create temporary table ")
_COPY_OUT = re.compile(r"copy \((?P<query>.*)\) to stdout \(format binary\)")


@dataclass(frozen=True, slots=True)
class Sent:
    """One statement, with its parameters as literals in their places."""

    pid: int
    prepared: bool
    text: str

    @property
    def query(self) -> str:
        """What EXPLAIN takes of it: the query inside, if it is a COPY to the client."""
        copy = _COPY_OUT.fullmatch(self.text)
        return copy["query"] if copy else self.text

    @property
    def makes_the_session(self) -> bool:
        """Whether later statements of the session depend on it."""
        return not self.prepared and self.text.startswith(_MAKES_THE_SESSION)


class StatementLog:
    """What new sessions of one application send to one database."""

    def __init__(self, cluster: Cluster, dsn: str, application: str) -> None:
        self._cluster = cluster
        self._dsn = dsn
        self._whose = (application, urlsplit(dsn).path.lstrip("/"))
        self._begin = cluster.log_path.stat().st_size

    @classmethod
    async def begin(cls, cluster: Cluster, dsn: str, application: str) -> StatementLog:
        log = cls(cluster, dsn, application)
        connection = await asyncpg.connect(dsn)
        # In this database alone: the server belongs to other tests as well.
        await connection.execute(f"alter database \"{log._whose[1]}\" set log_statement = 'all'")
        await connection.close()
        return log

    def sent(self) -> list[Sent]:
        """Everything so far, in the order of the log."""
        with self._cluster.log_path.open(encoding="utf-8") as log:
            log.seek(self._begin)
            entries = [entry for line in log if (entry := _ENTRY.search(line))]
        found: list[Sent] = []
        last: dict[int, int] = {}
        for entry in entries:
            if (entry["application"], entry["database"]) != self._whose:
                continue
            pid, text = int(entry["pid"]), entry["text"]
            if entry["kind"].lower() == "parameters":
                at = last[pid]
                found[at] = Sent(pid, True, _filled_in(found[at].text, text))
            else:
                last[pid] = len(found)
                found.append(Sent(pid, entry["kind"] != "statement", text))
        return found

    @asynccontextmanager
    async def session_like(self, pid: int) -> AsyncIterator[asyncpg.Connection]:
        """A session of ours that is set up as that one was; what it does is undone."""
        connection = await asyncpg.connect(self._dsn)
        try:
            for sent in self.sent():
                if sent.pid == pid and sent.makes_the_session:
                    await connection.execute(sent.text)
            await connection.execute("begin")
            yield connection
        finally:
            await connection.close()


def _filled_in(text: str, parameters: str) -> str:
    values = _PARAMETER.findall(parameters)
    return re.sub(r"\$(\d+)", lambda place: values[int(place[1]) - 1], text)


@dataclass(frozen=True, slots=True)
class Plan:
    """How the server has run a query."""

    root: dict[str, Any]

    @classmethod
    async def of(cls, connection: asyncpg.Connection, query: str) -> Plan:
        text = await connection.fetchval(f"explain (analyze, buffers, format json) {query}")
        return cls(json.loads(text)[0]["Plan"])

    def nodes(self) -> Iterator[dict[str, Any]]:
        waiting = [self.root]
        while waiting:
            node = waiting.pop()
            yield node
            waiting += node.get("Plans", [])

    @property
    def kinds(self) -> set[str]:
        return {node["Node Type"] for node in self.nodes()}

    @property
    def indexes(self) -> set[str]:
        return {node["Index Name"] for node in self.nodes() if "Index Name" in node}

    @property
    def rows(self) -> int:
        """How many it returned."""
        return int(self.root["Actual Rows"])

    @property
    def buffers(self) -> int:
        """Pages that it looked at, as often as it did."""
        return int(self.root["Shared Hit Blocks"] + self.root["Shared Read Blocks"])

    def rows_read(self, table: str) -> int:
        """Rows that its scans fetched from a table, those that a condition then removed too."""
        read = 0.0
        for node in self.nodes():
            if node.get("Relation Name") == table and node["Node Type"].endswith("Scan"):
                removed = node.get("Rows Removed by Filter", 0)
                removed += node.get("Rows Removed by Index Recheck", 0)
                read += (node["Actual Rows"] + removed) * node["Actual Loops"]
        return round(read)

    def scans(self, table: str) -> set[str]:
        """The kinds of nodes that read a table."""
        return {
            node["Node Type"]
            for node in self.nodes()
            if node.get("Relation Name") == table and node["Node Type"] != "ModifyTable"
        }

    def __str__(self) -> str:
        return "\n".join(_outline(self.root))


def _outline(node: dict[str, Any], depth: int = 0) -> Iterator[str]:
    names = ("Node Type", "Relation Name", "Index Name", "Index Cond", "Filter", "Sort Method")
    told = [str(node[name]) for name in names if name in node]
    counted = f"{node['Actual Rows']} rows, {node['Actual Loops']} times"
    yield f"{'  ' * depth}{', '.join(told)}: {counted}"
    for child in node.get("Plans", []):
        yield from _outline(child, depth + 1)


async def index_columns(connection: asyncpg.Connection, plan: Plan) -> set[tuple[str, ...]]:
    """The columns of the indexes that a plan reads."""
    rows = await connection.fetch(
        """
        select array_agg(a.attname::text order by k.n) as columns
        from pg_index i, unnest(i.indkey::int2[]) with ordinality k(attnum, n), pg_attribute a,
             pg_class c
        where c.oid = i.indexrelid and c.relname = any ($1::text[])
          and a.attrelid = i.indrelid and a.attnum = k.attnum
        group by i.indexrelid
        """,
        list(plan.indexes),
    )
    return {tuple(row["columns"]) for row in rows}


async def forget_statistics(connection: asyncpg.Connection, table: str) -> None:
    """As if none had ever been collected of the table."""
    await connection.execute(
        f"""
        set allow_system_table_mods = on;
        delete from pg_statistic where starelid = '{table}'::regclass;
        update pg_class set reltuples = -1, relpages = 0 where oid = '{table}'::regclass
            or oid in (select indexrelid from pg_index where indrelid = '{table}'::regclass);
        reset allow_system_table_mods
        """
    )
