"""What a first user gets wrong: one clear line, the right exit code, nothing changed."""

from __future__ import annotations

import time
from urllib.parse import urlsplit

import pytest

from tests.support.command_line import DEDICATED, SHARED, CommandLine


def wrong_password(dsn: str) -> str:
    return dsn.replace(urlsplit(dsn).password or "", "S3cret-guess")


def untouched(cli: CommandLine) -> bool:
    return (
        cli.sql("control", "select * from tenant_migrations") == []
        and cli.sql("source", "select * from eventsource_fences") == []
        and cli.count("target") == 0
    )


def test_a_wrong_password_of_a_store_is_refused_by_preflight(ready: CommandLine) -> None:
    for side, dsn in ((SHARED, ready.source_dsn), (DEDICATED, ready.target_dsn)):
        ready.write_config(**{side: wrong_password(dsn)})
        for verb in ("run", "plan", "start"):
            result = ready(verb, ready.tenant, "--to", DEDICATED, exit_code=3)
            assert f"store '{side}'" in result.output
            assert f"check [stores.{side}] dsn" in result.output
            assert "S3cret-guess" not in result.output
            assert "Traceback" not in result.output
    assert untouched(ready)


@pytest.mark.parametrize("side", [SHARED, DEDICATED])
@pytest.mark.parametrize("verb", [("return", "--yes"), ("way-back", "close", "--yes")])
def test_a_store_that_lets_nobody_in_any_more_is_named_after_the_move(
    ready: CommandLine, side: str, verb: tuple[str, ...]
) -> None:
    """Its server says whose password is wrong, and all of them have the same user."""
    ready("move", ready.tenant, "--to", DEDICATED)
    dsn = ready.source_dsn if side == SHARED else ready.target_dsn
    ready.write_config(**{side: wrong_password(dsn)})
    result = ready(*verb, "--tenant", ready.tenant, exit_code=1)
    assert f"store '{side}' (postgres@127.0.0.1:" in result.output
    assert f"check [stores.{side}] dsn" in result.output
    assert (
        ready.json(*verb, "--tenant", ready.tenant, exit_code=1)["error"]["code"] == "unreachable"
    )


@pytest.mark.parametrize("verb", ["run", "plan", "start"])
def test_a_tenant_that_is_no_uuid_is_refused_where_tenants_are_uuids(
    ready: CommandLine, verb: str
) -> None:
    result = ready(verb, "acme", "--to", DEDICATED, exit_code=2)
    assert "'acme' is no UUID, and the tenants of this event table are UUIDs" in result.output
    assert untouched(ready)


def test_a_wrong_password_of_the_control_database_names_it(ready: CommandLine) -> None:
    ready.write_config(control=wrong_password(ready.control_dsn))
    result = ready("list", exit_code=1)
    assert "the control database (postgres@127.0.0.1:" in result.output
    assert "check [control] dsn" in result.output
    assert "S3cret-guess" not in result.output
    answer = ready.json("list", exit_code=1)
    assert answer["error"]["code"] == "unreachable"
    assert "S3cret-guess" not in str(answer)


@pytest.mark.parametrize(
    ("dsn", "exit_code"),
    [
        ("postgresql://postgres:S3cret-guess@127.0.0.1:1/app", 1),
        ("postgresql://postgres:S3cret-guess@no-such-host.invalid/app", 1),
        ("postgresql://postgres:S3cret-guess@127.0.0.1:port/app", 2),
        ("postgres:S3cret-guess@127.0.0.1/app", 2),
        ("host=127.0.0.1 port=1 password=S3cret-guess", 1),
        ("host=127.0.0.1 password=S3cret-guess port", 2),
    ],
)
def test_an_address_that_leads_nowhere_is_told_without_its_password(
    cli: CommandLine, dsn: str, exit_code: int
) -> None:
    cli.write_config(control=dsn)
    result = cli("list", exit_code=exit_code)
    assert result.output.startswith("error: ")
    assert result.output.count("\n") == 1
    assert "S3cret-guess" not in result.output


def test_a_store_that_is_unreachable_does_not_keep_the_journal_from_being_read(
    ready: CommandLine,
) -> None:
    ready("run", ready.tenant, "--to", DEDICATED)
    id_ = ready.migration()["id"]
    ready.write_config(dedicated="postgresql://postgres@127.0.0.1:1/app")
    assert ready.json("status", id_)["state"] == "dual_write"
    assert len(ready.json("list")) == 1
    ready("lag", id_, exit_code=1)


def test_a_host_that_drops_packets_is_told_soon(ready: CommandLine, silent_port: int) -> None:
    silent = f"postgresql://postgres:S3cret-guess@127.0.0.1:{silent_port}/app"
    ready.write_config(shared=silent, dedicated=silent)
    began = time.monotonic()
    result = ready("run", ready.tenant, "--to", DEDICATED, exit_code=3)
    # Ten seconds is what a server gets that answers but does not finish.
    assert time.monotonic() - began < 6
    for side in (SHARED, DEDICATED):
        assert f"store '{side}'" in result.output
    assert "the host does not answer" in result.output
    assert "S3cret-guess" not in result.output
    ready.write_config(control=silent)
    assert "the host does not answer" in ready("list", exit_code=1).output


def test_an_unknown_store_is_a_usage_error_that_lists_the_known(ready: CommandLine) -> None:
    for verb in ("run", "plan", "start"):
        result = ready(verb, ready.tenant, "--to", "nowhere", exit_code=2)
        assert "has no store 'nowhere'" in result.output
        assert "dedicated, shared" in result.output
    assert untouched(ready)


def test_a_target_that_is_the_source_is_refused(ready: CommandLine) -> None:
    both = ready("run", ready.tenant, "--from", SHARED, "--to", SHARED, "--yes", exit_code=2)
    assert "--from and --to are both 'shared'" in both.output
    ready.write_config(dedicated=ready.source_dsn)
    result = ready("run", ready.tenant, "--to", DEDICATED, "--yes", exit_code=3)
    assert "the target is the source" in result.output
    assert untouched(ready)


def test_a_missing_table_and_a_missing_column_are_refused_with_their_repair(
    ready: CommandLine,
) -> None:
    missing = ready(
        "--set", f"stores.{DEDICATED}.table=elsewhere", "run", ready.tenant, "--to", DEDICATED,
        exit_code=3,
    )  # fmt: skip
    assert '"elsewhere" does not exist; run `eventsource-migrate init`' in missing.output
    ready.sql("target", "alter table events drop column actor_id")
    result = ready.json("plan", ready.tenant, "--to", DEDICATED, exit_code=3)
    assert result["error"]["code"] == "preflight"
    assert any("actor_id" in problem for problem in result["error"]["problems"])
    assert untouched(ready)


def test_a_target_that_holds_the_tenant_is_refused(ready: CommandLine) -> None:
    ready.sql(
        "target",
        "insert into events (event_id, aggregate_id, aggregate_type, event_type, tenant_id,"
        " version, timestamp, payload)"
        " values (gen_random_uuid(), gen_random_uuid(), 'A', 'E', $1, 1, now(), '{}')",
        ready.tenant,
    )
    result = ready("run", ready.tenant, "--to", DEDICATED, "--yes", exit_code=3)
    assert "already holds events of tenant" in result.output
    assert ready.sql("control", "select * from tenant_migrations") == []


def test_a_second_migration_of_a_tenant_names_the_first(ready: CommandLine) -> None:
    ready("start", ready.tenant, "--to", DEDICATED)
    id_ = str(ready.migration()["id"])
    assert id_ in ready("start", ready.tenant, "--to", DEDICATED, exit_code=1).output
    # A plan of what is under way shows that.
    assert id_ in ready("plan", ready.tenant, "--to", DEDICATED).output
    ready.config.write_text(
        ready.config.read_text()
        + f'\n[stores.third]\ndsn = "{ready.target_dsn}"\ntable = "events3"\n'
    )
    result = ready("run", ready.tenant, "--to", "third", "--yes", exit_code=1)
    assert "already has an active migration" in result.output
    assert id_ in result.output


def test_verify_needs_two_stores_when_the_tenant_never_moved(ready: CommandLine) -> None:
    result = ready("verify", ready.tenant, exit_code=2)
    assert "name --from and --to" in result.output
    # Nothing of it is at the target.
    ready("verify", ready.tenant, "--from", SHARED, "--to", DEDICATED, exit_code=4)


@pytest.mark.parametrize("verb", ["abort", "pause", "cutover", "throttle"])
def test_a_control_database_that_takes_no_writes_is_said_to(ready: CommandLine, verb: str) -> None:
    """After a failover `cannot execute SELECT in a read-only transaction` was all there was."""
    ready("start", ready.tenant, "--to", DEDICATED)
    name = ready.control_dsn.rsplit("/", 1)[1]
    ready.sql("control", f'alter database "{name}" set default_transaction_read_only = on')
    more = ["5"] if verb == "throttle" else ["--yes"] if verb != "pause" else []
    said = ready(verb, "--tenant", ready.tenant, *more, exit_code=1).output
    assert "a database takes no writes" in said
    assert "look at [control] dsn" in said


@pytest.mark.parametrize(
    ("limit", "named"),
    [
        ("alter role few connection limit 0", "max_connections or the connection limit"),
        ('alter database "{name}" connection limit 0', "max_connections or the connection limit"),
        ("alter role few nologin", "the user, and sslmode"),
        ("alter role few password 'another'", "user and password"),
    ],
)
def test_what_is_to_be_done_fits_what_the_server_refuses(
    cli: CommandLine, limit: str, named: str
) -> None:
    """`too many clients` was followed by `check [control] dsn`."""
    parts = urlsplit(cli.control_dsn)
    name = parts.path[1:]
    cli.sql("control", "drop role if exists few")
    cli.sql("control", "create role few login password 'few'")
    try:
        cli.sql("control", limit.format(name=name))
        few = parts._replace(netloc=f"few:few@{parts.hostname}:{parts.port}").geturl()
        cli.write_config(control=few)
        said = cli("list", exit_code=1).output
        assert named in said
        assert ("check [control] dsn" in said) == ("alter role few" in limit and "0" not in limit)
    finally:
        cli.sql("control", "drop role few")
