"""`list` among many migrations: what is asked for, a page at a time, and how many follow."""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest

from eventsource.cli.listing import moment_of
from eventsource.migration.repositories import lookups
from tests.support.command_line import DEDICATED, CommandLine

#: One more than two pages, so that the last one is short.
MIGRATIONS = 101

#: That of the seventh.
TENANT = str(UUID(hashlib.md5(b"t7").hexdigest()))

_FILL = """
with made as (
    insert into tenant_migrations (id, tenant_id, source_store_id, target_store_id, state,
                                   created_at)
    select md5('m' || n)::uuid, md5('t' || n % 60)::uuid::text,
           case when n % 10 = 0 then 'dedicated' else 'shared' end,
           case when n % 10 = 0 then 'shared' when n % 3 = 0 then 'other' else 'dedicated' end,
           case when n % 25 = 7 then 'failed' when n % 25 = 8 then 'rolled_back'
                when n between 50 and 54 then 'paused' else 'migrated' end,
           -- Always two at one moment: a page may end between them.
           date_trunc('hour', now()) - (n / 2) * interval '1 hour'
    from generate_series(1, $1::int) n
    returning id
), numbered as (select md5('m' || n)::uuid as id, n from generate_series(1, $1::int) n)
insert into migration_audit_log (migration_id, event_type, details, operator)
select m.id, each.type, '{}', each.operator
from made m join numbered using (id) cross join lateral (values
    (1, 'state:pending', case when n % 4 = 0 then null when n % 7 = 0 then 'ada' else 'cron' end),
    -- Paused while it was pending, and resumed by somebody else.
    (2, 'state:pending', case when n % 5 = 0 then 'grace' end),
    (3, 'state:bulk_copy', 'ada')
) as each(at, type, operator)
order by each.at
"""


@pytest.fixture
def many(cli: CommandLine) -> CommandLine:
    cli("init")
    cli.sql("control", _FILL, MIGRATIONS)
    return cli


def everything(many: CommandLine) -> list[dict[str, Any]]:
    """All of it, newest first, as one long page has it."""
    found: list[dict[str, Any]] = many.json("list", "--limit", MIGRATIONS + 1)
    assert len(found) == MIGRATIONS
    rows = many.sql("control", "select id from tenant_migrations order by created_at desc, id desc")
    assert [each["id"] for each in found] == [str(row["id"]) for row in rows]
    return found


def test_pages_follow_each_other_without_a_gap_and_say_how_many_more_there_are(
    many: CommandLine,
) -> None:
    expected = [each["id"] for each in everything(many)]
    first = many("list")
    assert first.stdout.count("\n") == 51
    assert f"51 more follow: the same with --after {expected[49]}" in first.stderr
    for length in (50, 7):
        pages: list[list[str]] = []
        after: tuple[object, ...] = ()
        for more in itertools.count():
            page = [each["id"] for each in many.json("list", "--limit", length, *after)]
            pages.append(page)
            if len(page) < length or (len(pages) * length >= 35 and length < 50):
                break
            after = ("--after", page[-1] if more % 2 else page[-1][:12])
        seen = list(itertools.chain.from_iterable(pages))
        assert seen == expected[: len(seen)]
        assert len(seen) == MIGRATIONS if length == 50 else len(seen) >= 35
    last = many("list", "--after", expected[-2])
    assert expected[-1] in last.stdout
    assert "more follow" not in last.stderr
    assert "no such migration" in many("list", "--after", expected[-1]).stdout


@pytest.mark.parametrize("one_by_one", [False, True])
def test_each_filter_shows_exactly_those_that_it_names(many: CommandLine, one_by_one: bool) -> None:
    whole = everything(many)
    middle = datetime.fromisoformat(whole[50]["created_at"])
    recent = datetime.fromisoformat(whole[9]["created_at"])
    over = ("migrated", "rolled_back", "failed")
    filters: list[tuple[tuple[object, ...], Any]] = [
        (("--state", "failed"), lambda m: m["state"] == "failed"),
        (
            ("--state", "failed", "--state", "paused"),
            lambda m: m["state"] in ("failed", "paused"),
        ),
        (("--active",), lambda m: m["state"] not in over),
        (("--from", DEDICATED), lambda m: m["source_store_id"] == DEDICATED),
        (("--to", "other"), lambda m: m["target_store_id"] == "other"),
        (("--tenant", TENANT), lambda m: m["tenant_id"] == TENANT),
        (
            ("--since", middle.isoformat()),
            lambda m: datetime.fromisoformat(m["created_at"]) >= middle,
        ),
        (
            ("--until", middle.isoformat()),
            lambda m: datetime.fromisoformat(m["created_at"]) < middle,
        ),
        (
            ("--since", middle.isoformat(), "--until", recent.isoformat()),
            lambda m: middle <= datetime.fromisoformat(m["created_at"]) < recent,
        ),
        (("--by", "ada"), lambda m: m["started_by"] == "ada"),
        # Only those that nobody is known to have started: of the others it resumed some.
        (("--by", "grace"), lambda m: m["started_by"] == "grace"),
        (("--by", "nobody"), lambda m: False),
    ]
    if not one_by_one:
        pairs = itertools.combinations(filters, 2)
        filters = [((*a, *b), _both(p, q)) for (a, p), (b, q) in pairs if not set(a) & set(b)][::11]
    for options, is_meant in filters:
        expected = [each["id"] for each in whole if is_meant(each)]
        assert [each["id"] for each in many.json("list", "--limit", 200, *options)] == expected, (
            options
        )
        counted = many.json("list", "--summary", *options)
        assert sum(each["migrations"] for each in counted) == len(expected), options
        if len(expected) > 3:
            following = many.json("list", "--after", expected[1], *options, "--limit", 2)
            assert [each["id"] for each in following] == expected[2:4]
            page = many("list", "--limit", 2, *options)
            assert f"{len(expected) - 2} more follow" in page.stderr


def _both(one: Any, other: Any) -> Any:
    return lambda m: one(m) and other(m)


def test_a_summary_counts_by_state_and_stores(many: CommandLine) -> None:
    whole = everything(many)
    counts = Counter(
        (each["state"], each["source_store_id"], each["target_store_id"]) for each in whole
    )
    counted = many.json("list", "--summary")
    assert {
        (each["state"], each["source_store_id"], each["target_store_id"]): each["migrations"]
        for each in counted
    } == counts
    shown = many("list", "--summary").stdout.splitlines()
    assert shown[0].split() == ["state", "from", "to", "migrations"]
    assert shown[-1].split() == ["all", str(MIGRATIONS)]
    assert many.json("list", "--summary", "--by", "nobody") == []
    assert "no such migration" in many("list", "--summary", "--by", "nobody").stdout


def test_a_return_is_of_those_who_ask_for_it(ready: CommandLine) -> None:
    def by(name: str) -> list[str]:
        listed = ready.json("list", "--by", name)
        assert {each["started_by"] for each in listed} <= {name}
        return [each["id"] for each in listed]

    ready("run", ready.tenant, "--to", DEDICATED, "--yes", "--operator", "ada")
    moved = str(ready.migration()["id"])
    # A writer that does not commit: the fence is not granted, and the return stays asked for.
    with psycopg.connect(ready.target_dsn) as writer:
        writer.execute(
            "insert into events (event_id, aggregate_id, aggregate_type, event_type, tenant_id,"
            " version, timestamp, payload)"
            " values (gen_random_uuid(), gen_random_uuid(), 'Note', 'noted', %s, 1, now(), '{}')",
            (ready.tenant,),
        )
        ready("return", moved, "--yes", "--max-pause", "1", "--operator", "bea", exit_code=5)
    returned = str(ready.migration()["id"])
    assert returned != moved
    assert (by("ada"), by("bea")) == ([moved], [returned])
    ready("abort", returned, "--yes", "--operator", "ada")
    ready("return", moved, "--yes", "--operator", "cid")
    assert (by("ada"), by("bea"), by("cid")) == ([moved], [], [returned])
    assert "cid" in ready("list").stdout


def test_what_cannot_be_a_filter_is_a_usage_error(many: CommandLine) -> None:
    for wrong in (
        ("--state", "moving"),
        ("--since", "yesterday"),
        ("--until", "2026-13-01"),
        ("--limit", "0"),
        ("--limit", "10001"),
        ("--after", "nothing"),
        ("--after", "12345678"),
    ):
        many("list", *wrong, exit_code=2)
    gone = UUID(int=7)
    assert str(gone) in many("list", "--after", gone, exit_code=1).output


def test_a_time_is_so_long_ago_or_of_this_machines_clock() -> None:
    now = datetime(2026, 12, 1, 12).astimezone()
    for text, expected in (
        ("2h", now - timedelta(hours=2)),
        ("7d", now - timedelta(days=7)),
        ("2026-11-30", datetime(2026, 11, 30).astimezone()),
        ("2026-11-30T05:00Z", datetime.fromisoformat("2026-11-30T05:00+00:00")),
        ("2026-11-30T05:00+02:00", datetime.fromisoformat("2026-11-30T05:00+02:00")),
    ):
        assert moment_of(text, now, "--since") == expected, text
    assert moment_of(None, now, "--since") is None


@pytest.mark.parametrize("prefix", ["0a24", "0a24dcd2-1", "0a24dcd2-", ""])
def test_what_begins_an_id_is_a_range_of_ids(prefix: str) -> None:
    zeros, ones = str(UUID(int=0)), str(UUID(int=2**128 - 1))
    lowest, highest = UUID(prefix + zeros[len(prefix) :]), UUID(prefix + ones[len(prefix) :])
    assert lookups.ids_of(prefix) == (lowest, highest)


@pytest.mark.parametrize("text", ["0a2-", "0a24dcd21", "x", "0a24dcd2--", "0" * 37])
def test_what_begins_no_id_is_no_range(text: str) -> None:
    assert lookups.ids_of(text) is None
