"""The page: what it shows, to whom, and that it changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest

from tests.support.command_line import DEDICATED, CommandLine
from tests.support.fleet_page import Served, served

TOKEN = "a-token-of-the-tests-and-of-nobody-else"


@pytest.fixture
def page(ready: CommandLine) -> Iterator[Served]:
    with served(ready) as opened:
        yield opened


@pytest.fixture
def guarded(ready: CommandLine) -> Iterator[Served]:
    with served(ready, EVENTSOURCE_PAGE_TOKEN=TOKEN) as opened:
        yield opened


def test_it_serves_a_page_that_loads_nothing_from_elsewhere(page: Served) -> None:
    for path in ("/", "/page.js", "/page.css"):
        status, headers, body = page.get(path)
        assert status == 200
        assert "https://" not in body.replace("https://www.w3.org", "")
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe-inline" not in policy
    assert "<script>" not in page.get("/")[2]


def test_it_shows_waves_and_moves(page: Served, ready: CommandLine) -> None:
    assert page.json("/api/now") == {"waves": [], "alone": [], "trouble": None}
    ready("fleet", "plan", "night", "--largest", 2, "--to", DEDICATED)
    ready("fleet", "start", "night")
    [wave] = page.json("/api/now")["waves"]
    assert (wave["name"], wave["state"], wave["tenants"]) == ("night", "running", 2)
    assert wave["counts"] == {"waiting": 2}
    ready("run", ready.other, "--to", DEDICATED)
    [alone] = page.json("/api/now")["alone"]
    assert (alone["tenant_id"], alone["phase"]) == (str(ready.other), "dual_write")


def test_it_streams_what_changes(page: Served, ready: CommandLine) -> None:
    events = page.follow()
    assert next(events)["waves"] == []
    ready("fleet", "plan", "night", "--largest", 1, "--to", DEDICATED)
    seen: list[Any] = []
    for shown in events:
        seen = [wave["state"] for wave in shown["waves"]]
        if seen:
            break
    assert seen == ["planned"]


def test_it_shows_the_history_of_a_tenant(page: Served, ready: CommandLine) -> None:
    ready("run", ready.other, "--to", DEDICATED, "--yes", "--operator", "ada")
    [migration] = page.json(f"/api/tenant?id={ready.other}")["migrations"]
    assert migration["state"] == "migrated"
    audit = {entry["event_type"]: entry["operator"] for entry in migration["audit"]}
    assert audit["cutover_requested"] == "ada"
    assert page.json(f"/api/tenant?id={uuid4()}") == {"migrations": []}
    assert page.json("/api/tenant?id=seven") == {"migrations": []}
    for nobody in ("?id=%00", "?id=", ""):
        assert page.get(f"/api/tenant{nobody}")[0] == 404


def test_it_can_only_be_looked_at(page: Served) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        for path in ("/", "/api/now", "/api/tenant"):
            assert page.ask(method, path)[0] == 405


def test_without_a_token_another_name_of_this_machine_is_refused(page: Served) -> None:
    """A site whose name points here would read the page in somebody's browser."""
    for host in ("evil.example", "evil.example:8321", "127.0.0.1.evil.test", ""):
        assert page.get("/api/now", host=host)[0] == 421, host
    for host in ("localhost", f"localhost:{page.port}", f"127.0.0.1:{page.port}", "[::1]:80"):
        assert page.get("/api/now", host=host)[0] == 200, host


def test_with_a_token_nobody_looks_without_it(guarded: Served) -> None:
    for path in ("/", "/page.js", "/api/now", "/api/stream", "/api/tenant"):
        for headers in (
            {}, {"Authorization": "Bearer wrong"}, {"Cookie": "eventsource_page=wrong"},
            {"Authorization": TOKEN}, {"Cookie": f"other={TOKEN}"}, {"Cookie": "="},
        ):  # fmt: skip
            status, _, body = guarded.get(path, **headers)
            assert status == 401, (path, headers)
            assert TOKEN not in body
        assert guarded.get(f"{path}?token=wrong")[0] == 401


def test_the_token_opens_the_page_and_leaves_the_address(guarded: Served) -> None:
    assert guarded.get("/api/now", Authorization=f"Bearer {TOKEN}")[0] == 200
    status, headers, _ = guarded.get(f"/?token={TOKEN}")
    assert (status, headers["location"]) == (303, "/")
    cookie = headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "samesite=strict" in cookie.lower()
    assert guarded.get("/api/now", Cookie=cookie.split(";")[0])[0] == 200
    # By whichever name, for it may stand after a proxy.
    assert guarded.get("/api/now", host="moves.example", Cookie=cookie.split(";")[0])[0] == 200


def test_others_may_not_reach_it_without_a_token(ready: CommandLine) -> None:
    refused = ready("fleet", "page", "--host", "0.0.0.0", "--port", 0, exit_code=2)
    assert "EVENTSOURCE_PAGE_TOKEN" in refused.output
    # An empty one is a secret that was not found, and not the wish to do without.
    for token in ("short", ""):
        given = ready.popen("fleet", "page", "--port", 0, EVENTSOURCE_PAGE_TOKEN=token)
        try:
            assert given.wait(10) == 2
        finally:
            given.kill()


def test_its_token_is_not_printed(ready: CommandLine) -> None:
    with served(ready, EVENTSOURCE_PAGE_TOKEN=TOKEN) as opened:
        opened.get("/api/now")
    assert TOKEN not in opened.printed
    assert "Traceback" not in opened.printed


def test_a_control_database_that_restarts_is_said_and_waited_for(
    page: Served, ready: CommandLine
) -> None:
    events = page.follow()
    assert next(events)["trouble"] is None
    ready.sql(
        "control",
        "select pg_terminate_backend(pid) from pg_stat_activity"
        " where datname = current_database() and pid <> pg_backend_pid()",
    )
    for shown in events:
        if shown["trouble"] is None and "waves" in shown:
            break
    assert page.get("/api/now")[0] == 200


def test_it_ends_although_somebody_follows_it(ready: CommandLine) -> None:
    with served(ready) as opened:
        next(opened.follow())
        opened.process.terminate()
        assert opened.process.wait(15) == 0
