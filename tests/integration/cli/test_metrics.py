"""Metrics of a real move, dashboard and alerts over them, and hooks that hear of changes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from eventsource.migration import MigrationState
from tests.support import REPOSITORY
from tests.support.command_line import DEDICATED, CommandLine, wait_until
from tests.support.promql import Scrape, names_in

SLOW = "max_events_per_second = 1500\nbatch_size = 10\nsync_lag_threshold = 1000\n"

DASHBOARD = json.loads((REPOSITORY / "deploy/grafana/dashboard.json").read_text())
RULES = yaml.safe_load((REPOSITORY / "deploy/prometheus/alerts.yaml").read_text())


@contextmanager
def working(cli: CommandLine, *more: object) -> Iterator[str]:
    """`work --metrics` on a free port; where it serves."""
    command = cli.popen("work", "--metrics", "127.0.0.1:0", *more)
    assert command.stdout is not None
    try:
        found = None
        while found is None:
            line = command.stdout.readline()
            assert line, command.communicate()
            found = re.search(r"http://[\d.]+:\d+", line)
        yield found[0]
    finally:
        command.terminate()
        command.communicate(timeout=30)


def get(address: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def scrape(address: str) -> Scrape:
    status, text = get(f"{address}/metrics")
    assert status == 200
    return Scrape.of(text)


def expressions() -> list[str]:
    panels = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    alerts = [rule["expr"] for group in RULES["groups"] for rule in group["rules"]]
    return panels + alerts


def value(found: Scrape, expression: str) -> float:
    (number,) = found.evaluate(expression).values()
    return number


@pytest.fixture
def slow(ready: CommandLine) -> CommandLine:
    ready.write_config(SLOW)
    ready.sql("source", "delete from events")
    ready.seed(12_000)
    return ready


def test_a_scrape_says_what_the_journal_says_and_feeds_dashboard_and_alerts(
    slow: CommandLine,
) -> None:
    with working(slow) as address:
        wait_until(lambda: get(f"{address}/ready")[0] == 200)
        assert get(f"{address}/live")[0] == 200
        assert get(f"{address}/nothing")[0] == 404
        slow("start", slow.tenant, "--to", DEDICATED)

        def copies() -> bool:
            rate = "eventsource_migration_copy_events_per_second"
            return bool(scrape(address).samples.get(rate))

        wait_until(copies)
        before = slow.migration()
        seen = scrape(address)
        after = slow.migration()
        labels = f'{{tenant="{slow.tenant}"}}'
        carried = value(seen, f"eventsource_migration_events_carried{labels}")
        # A scrape is of the last look, which is at most some seconds old.
        assert 0 < carried <= after["events_copied"]
        assert value(seen, f"eventsource_migration_events_known{labels}") == 12_000
        assert value(seen, f"eventsource_migration_limit_events_per_second{labels}") == 1500
        # The first chunks come at once, whatever the limit.
        assert 300 < value(seen, f"eventsource_migration_copy_events_per_second{labels}") < 9000
        assert value(seen, 'eventsource_migrations{state="bulk_copy"}') == 1
        assert before["id"] == after["id"]
        for expression in expressions():
            seen.evaluate(expression.replace("$tenant", ".*"))

        slow("cutover", "--tenant", slow.tenant, "--force")

        def is_over() -> bool:
            return value(scrape(address), 'eventsource_migrations{state="migrated"}') == 1

        wait_until(is_over)
        done = scrape(address)
        pause = slow.migration()["cutover_pause_ms"] / 1000
        assert value(done, "eventsource_cutover_pause_seconds_sum") == pytest.approx(pause)
        assert value(done, "eventsource_cutover_pause_seconds_count") == 1
        assert value(done, 'eventsource_cutovers_total{outcome="ok"}') == 1
        for name, bound, held in (("0.005", 0.005, None), ("10.0", 10.0, 1)):
            bucket = f'eventsource_cutover_pause_seconds_bucket{{le="{name}"}}'
            assert value(done, bucket) == (held if held is not None else float(pause <= bound))
        quantile = "histogram_quantile(0.5, sum by (le) (eventsource_cutover_pause_seconds_bucket))"
        assert value(done, quantile) >= pause


def test_every_metric_of_the_pages_is_exported_and_every_state_has_its_line(
    ready: CommandLine,
) -> None:
    page = (REPOSITORY / "docs/howto/monitor.md").read_text()
    with working(ready) as address:
        wait_until(lambda: get(f"{address}/ready")[0] == 200)
        _, text = get(f"{address}/metrics")
    families = set(re.findall(r"^# TYPE (\w+) ", text, re.MULTILINE))
    documented = set(re.findall(r"^\| `(eventsource_\w+)`", page, re.MULTILINE))
    assert documented == families
    named = {name for each in expressions() for name in names_in(each)}
    plain = {re.sub(r"_(bucket|count|sum)$", "", name) for name in named}
    assert plain <= families
    for state in MigrationState:
        assert f'eventsource_migrations{{state="{state}"}}' in text


def test_an_alert_rings_for_a_migration_that_nobody_drives(ready: CommandLine) -> None:
    ready.write_config(control=ready.control_dsn)
    ready("start", ready.tenant, "--to", DEDICATED)
    (rule,) = [
        rule for group in RULES["groups"] for rule in group["rules"]
        if rule["alert"] == "TenantMigrationWithoutDriver"
    ]  # fmt: skip
    # A worker that does not know the target watches, and cannot drive.
    text = ready.config.read_text()
    ready.config.write_text(text.replace("[stores.dedicated]", "[stores.elsewhere]"))
    with working(ready) as address:
        wait_until(lambda: get(f"{address}/ready")[0] == 200)
        seen = scrape(address)
        assert len(seen.evaluate(rule["expr"])) == 1


@pytest.mark.parametrize("follows", [True, False], ids=["followed", "left alone"])
def test_an_alert_rings_only_for_a_way_back_that_nobody_follows(
    ready: CommandLine, follows: bool
) -> None:
    """An idle one that is followed is looked at for a moment, every few seconds."""
    ready.write_config(control=ready.control_dsn)
    ready("run", ready.tenant, "--to", DEDICATED, "--yes")
    ready.sql(
        "control",
        "update tenant_migrations set completed_at = completed_at - interval '10 minutes'",
    )
    ready.sql("control", "update tenant_ways_back set followed_at = null")
    alone = "nobody has followed it for 10 min"
    assert alone in ready("status", "--tenant", ready.tenant).output
    (rule,) = [
        rule for group in RULES["groups"] for rule in group["rules"]
        if rule["alert"] == "TenantWayBackNotFollowed"
    ]  # fmt: skip
    if not follows:
        # This worker looks at the journal, and cannot carry anything.
        text = ready.config.read_text()
        ready.config.write_text(text.replace("[stores.dedicated]", "[stores.elsewhere]"))
    with working(ready) as address:
        wait_until(lambda: get(f"{address}/ready")[0] == 200)

        def rings() -> bool:
            return bool(scrape(address).evaluate(rule["expr"]))

        if follows:
            wait_until(lambda: not rings())
            # It stays so, whenever it is looked at: nothing is carried all this time.
            for _ in range(60):
                assert not rings()
                time.sleep(0.1)
        else:
            time.sleep(6)
            assert rings()
        (panel,) = [each for each in DASHBOARD["panels"] if "unfollowed" in str(each["targets"])]
        (target,) = panel["targets"]
        shows = value(scrape(address), target["expr"].replace("$tenant", ".*"))
        assert shows < 60 if follows else shows > 600
    shown = ready("way-back", "status", ready.migration()["id"]).output
    assert (alone in shown) is not follows
    assert "0 events" in shown or not follows


def test_readiness_ends_with_the_control_database(ready: CommandLine, source_cluster: Any) -> None:
    with working(ready) as address:
        wait_until(lambda: get(f"{address}/ready")[0] == 200)
        source_cluster.crash()
        try:
            wait_until(lambda: get(f"{address}/ready")[0] == 503, 60)
            assert value(scrape(address), "eventsource_control_up") == 0
            assert get(f"{address}/live")[0] == 200
        finally:
            source_cluster.restart()
        wait_until(lambda: get(f"{address}/ready")[0] == 200, 60)


@pytest.mark.parametrize("where", ["127.0.0.1:99999", "nonsense", "256.1.1.1:80"])
def test_an_address_that_cannot_be_listened_on_is_named(ready: CommandLine, where: str) -> None:
    refused = ready("work", "--metrics", where, exit_code=2)
    assert f"--metrics {where} cannot be listened on" in refused.output


def hook(directory: Path, body: str) -> str:
    """A program that gets a change on its input."""
    script = directory / "hook.py"
    script.write_text(f"import json, sys\nchange = json.load(sys.stdin)\n{body}\n")
    return f"{sys.executable} {script}"


def test_a_command_hears_of_each_change_once(ready: CommandLine, tmp_path: Path) -> None:
    heard = tmp_path / "heard"
    command = hook(tmp_path, f"open({str(heard)!r}, 'a').write(json.dumps(change) + chr(10))")
    ready.write_config(f"[hooks]\non_change = {json.dumps(command)}\n")
    ready("run", ready.tenant, "--to", DEDICATED, "--yes", "--operator", "ada")
    changes = [json.loads(line) for line in heard.read_text().splitlines()]
    assert [each["state"] for each in changes] == [
        "pending", "bulk_copy", "dual_write", "cutover_paused", "migrated",
    ]  # fmt: skip
    assert [each["was"] for each in changes][1:] == [each["state"] for each in changes][:-1]
    assert changes[0]["operator"] == "ada"
    assert {each["tenant_id"] for each in changes} == {str(ready.tenant)}
    assert changes[-1]["events_carried"] == changes[-1]["events_total"] == 400
    assert changes[-1]["fence_held_ms"] > 0


@pytest.mark.parametrize("body", ["sys.exit('it is broken')", "import time; time.sleep(60)"])
def test_a_hook_that_fails_or_hangs_stops_no_migration(
    ready: CommandLine, tmp_path: Path, body: str
) -> None:
    ready.write_config(f"[hooks]\non_change = {json.dumps(hook(tmp_path, body))}\n")
    done = ready("run", ready.tenant, "--to", DEDICATED, "--yes", "-v")
    assert ready.migration()["state"] == "migrated"
    if "exit" in body:
        assert "on_change failed: its command ended with exit code 1: it is broken" in done.stderr


def test_a_url_gets_the_change_and_its_secret_is_not_logged(ready: CommandLine) -> None:
    got: list[dict[str, Any]] = []

    class Chat(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            got.append(json.loads(body))
            self.send_response(200 if len(got) < 3 else 500)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            return None

    server = HTTPServer(("127.0.0.1", 0), Chat)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_address[1]}/services/T0P-S3CRET"
        ready.write_config(f"[hooks]\non_change = {json.dumps(url)}\n")
        done = ready("run", ready.tenant, "--to", DEDICATED, "--yes", "-v")
    finally:
        server.shutdown()
        server.server_close()
    assert got[-1]["state"] == "migrated"
    assert "on_change failed" in done.stderr
    assert "S3CRET" not in done.output + done.stderr


def test_a_hook_that_cannot_be_called_is_a_mistake_of_the_configuration(
    ready: CommandLine,
) -> None:
    for wrong in ("no-such-program-anywhere", "'unbalanced", ""):
        ready.write_config(f"[hooks]\non_change = {json.dumps(wrong)}\n")
        assert "on_change" in ready("list", exit_code=2).output


def test_the_rules_are_those_that_promtool_takes() -> None:
    promtool = subprocess.run(["sh", "-c", "command -v promtool"], capture_output=True, check=False)
    if promtool.returncode:
        pytest.skip("promtool is not here")
    subprocess.run(
        ["promtool", "check", "rules", REPOSITORY / "deploy/prometheus/alerts.yaml"], check=True
    )
