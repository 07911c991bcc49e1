"""Files for other tools: workflows, a container, Kubernetes, systemd, licences."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from eventsource.cli import app
from tests.support import REPOSITORY

DEPLOY = REPOSITORY / "deploy"
YAML = sorted([*(REPOSITORY / ".github").rglob("*.yml"), *DEPLOY.rglob("*.yaml")])


def options_of(verb: str) -> set[str]:
    group: Any = typer.main.get_command(app)
    return {name for level in (group, group.commands[verb]) for each in level.params
            for name in each.opts}  # fmt: skip


def check(words: list[str], where: str) -> None:
    """The verb is there, and each of its options."""
    known = options_of(words[0])
    for word in words[1:]:
        assert not word.startswith("-") or word in known, f"{where}: {word}"


@pytest.mark.parametrize("path", YAML, ids=lambda path: path.name)
def test_a_file_is_yaml_with_what_its_kind_asks_for(path: Path) -> None:
    documents = list(yaml.safe_load_all(path.read_text()))
    assert documents
    for document in documents:
        if path.name == "alerts.yaml":
            for rule in (rule for group in document["groups"] for rule in group["rules"]):
                assert {"alert", "expr", "labels", "annotations"} <= rule.keys()
                assert {"summary", "description"} == rule["annotations"].keys()
        elif path.is_relative_to(DEPLOY):
            assert {"apiVersion", "kind", "metadata"} <= document.keys()
        else:
            # YAML reads the key `on` as a truth value.
            assert {"name", "jobs", True} <= document.keys()
            for name, job in document["jobs"].items():
                assert "runs-on" in job, name
                for step in job["steps"]:
                    assert ("uses" in step) != ("run" in step), step


def queries() -> list[str]:
    """Of every panel of the dashboard, with its variable as Grafana fills it in, and of alerts."""
    board = json.loads((DEPLOY / "grafana/dashboard.json").read_text())
    rules = yaml.safe_load((DEPLOY / "prometheus/alerts.yaml").read_text())
    shown = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    alerts = [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    return [each.replace("$tenant", ".*") for each in shown + alerts]


def test_every_query_is_one_for_a_parser_of_promql() -> None:
    # Evaluated they are elsewhere, over what is really exported, by an evaluator of our own.
    parser = pytest.importorskip("promql_parser")
    assert len(queries()) > 20
    for query in queries():
        parser.parse(query)
    for wrong in ("sum(a", "a{b=c}", "rate(a)", "min by a (b)"):
        with pytest.raises(ValueError):
            parser.parse(wrong)


def test_panels_have_ids_and_places_of_their_own() -> None:
    panels = json.loads((DEPLOY / "grafana/dashboard.json").read_text())["panels"]
    assert len({each["id"] for each in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for each in panels:
        at = each["gridPos"]
        place = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not place & taken, each["title"]
        taken |= place


def test_what_is_published_has_been_tried_and_needs_no_token() -> None:
    jobs = yaml.safe_load((REPOSITORY / ".github/workflows/wheels.yml").read_text())["jobs"]
    assert {"linux", "macos", "sdist", "try"} == set(jobs["publish"]["needs"])
    assert jobs["publish"]["permissions"]["id-token"] == "write"
    assert "secrets." not in (REPOSITORY / ".github/workflows/wheels.yml").read_text()
    for job in jobs.values():
        for need in (
            [job.get("needs", [])] if isinstance(job.get("needs"), str) else job.get("needs", [])
        ):
            assert need in jobs


def containers(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield from value.get("containers", [])
        for inner in value.values():
            yield from containers(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from containers(inner)


def test_the_commands_of_containers_exist() -> None:
    seen = 0
    for path in DEPLOY.rglob("*.yaml"):
        for document in yaml.safe_load_all(path.read_text()):
            for container in containers(document):
                seen += 1
                check(container["args"], path.name)
                mounts = {each["name"] for each in container["volumeMounts"]}
                volumes = document["spec"]["template"]["spec"]["volumes"]
                assert mounts <= {each["name"] for each in volumes}
    assert seen >= 2


def test_the_configuration_of_a_config_map_can_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    from eventsource.cli import config

    (found,) = [
        document["data"]["eventsource.toml"]
        for document in yaml.safe_load_all((DEPLOY / "kubernetes/work.yaml").read_text())
        if document["kind"] == "ConfigMap"
    ]
    for name in re.findall(r"\$\{(\w+)\}", found):
        monkeypatch.setenv(name, f"postgresql://db/{name.lower()}")
    settings = config._checked("it", config._interpolated(tomllib.loads(found), "it"))
    assert set(settings.stores) == {"shared", "dedicated-a"}


def test_the_containerfile_has_known_instructions_and_runs_what_exists() -> None:
    text = re.sub(r"\\\n", " ", (DEPLOY / "Containerfile").read_text())
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    known = {"FROM", "COPY", "RUN", "USER", "WORKDIR", "ENV", "STOPSIGNAL", "EXPOSE", "ENTRYPOINT",
             "CMD"}  # fmt: skip
    assert lines[0].startswith("FROM ")
    assert {line.split()[0] for line in lines} <= known
    (command,) = [line.removeprefix("CMD ") for line in lines if line.startswith("CMD ")]
    check(list(yaml.safe_load(command)), "Containerfile")
    users = [line for line in lines if line.startswith("USER ")]
    assert users
    assert users[-1] != "USER root"
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    (asked,) = re.findall(r"eventsource-migration\[([\w,]+)\]", text)
    assert set(asked.split(",")) <= set(extras["optional-dependencies"])


def test_the_unit_starts_what_exists() -> None:
    text = (DEPLOY / "eventsource-migrate.service").read_text()
    sections = re.findall(r"^\[(\w+)\]$", text, re.MULTILINE)
    assert sections == ["Unit", "Service", "Install"]
    (command,) = re.findall(r"^ExecStart=(.*)$", text, re.MULTILINE)
    check(shlex.split(command)[1:], "unit")


@pytest.mark.skipif(shutil.which("cargo") is None, reason="there is no cargo to ask")
def test_the_list_of_licences_is_that_of_the_lock_file() -> None:
    done = subprocess.run(
        [REPOSITORY / "scripts" / "licences", "--check"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if "error:" in done.stderr:
        pytest.skip("the crates of other platforms are not here, and cannot be fetched")
    assert done.returncode == 0, done.stdout
