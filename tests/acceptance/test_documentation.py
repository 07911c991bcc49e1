"""The documentation: every page runs as printed, every link leads somewhere."""

from __future__ import annotations

import os
import re
import shlex
import sys
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg
import pytest
import typer

from eventsource.cli import app
from eventsource.cli.demo.servers import seed
from eventsource.migration import create_schema
from eventsource.stores.postgresql import PostgreSQLEventStore
from eventsource.subscriptions import PostgreSQLCheckpointRepository
from eventsource.testing import Cluster
from tests.support import REPOSITORY
from tests.support.page_runner import RUNNABLE, Block, Runner, blocks_of

DOCS = REPOSITORY / "docs"
PAGES = sorted([*REPOSITORY.glob("*.md"), *DOCS.rglob("*.md")])

# The tenant whose move the how-to pages show.
TENANT = UUID("7c9e6679-7425-40de-944b-e07fc1f90ae7")
EVENTS = 500

# It needs a tenant that was moved by hand, at known positions: tests/integration.
RUN_ELSEWHERE = {DOCS / "howto" / "move-subscriptions.md"}

# The demonstration with fewer events: the same lines, other numbers.
INSTEAD = {"eventsource-migrate demo": "eventsource-migrate demo --events 2000 --seconds 0.3"}

_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`[^`]*`")


def name_of(page: Path) -> str:
    return str(page.relative_to(REPOSITORY))


def is_run(block: Block) -> bool:
    return block.language in RUNNABLE or block.file is not None


RUN_HERE = [
    page for page in PAGES if page not in RUN_ELSEWHERE and any(map(is_run, blocks_of(page)))
]


@pytest.mark.parametrize("page", RUN_HERE, ids=name_of)
async def test_a_page_runs_as_printed(
    page: Path,
    source_cluster: Cluster,
    source_dsn: str,
    target_dsn: str,
    control_dsn: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EVENTSOURCE_CONFIG", raising=False)
    monkeypatch.setenv("EVENTSOURCE_OPERATOR", "ada")
    monkeypatch.setenv("SHARED_DSN", source_dsn)
    monkeypatch.setenv("DEDICATED_DSN", target_dsn)
    monkeypatch.setenv("CONTROL_DSN", control_dsn)
    # `python` is this one, `psql` is the server's; a plugin of ours must not speak in a page.
    programs = (Path(sys.executable).parent, source_cluster.program("psql").parent)
    monkeypatch.setenv("PATH", os.pathsep.join([*map(str, programs), os.environ["PATH"]]))
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p no:asyncio -p no:cacheprovider")
    if page.parent.name == "howto":
        await prepare(tmp_path, source_dsn, target_dsn, control_dsn)
    await Runner(page, tmp_path, instead=INSTEAD).run()


async def prepare(directory: Path, source_dsn: str, target_dsn: str, control_dsn: str) -> None:
    """What a how-to page expects: tables, a tenant with a past, and the configuration."""
    for dsn in (source_dsn, target_dsn):
        async with asyncpg.create_pool(dsn, min_size=1, max_size=2) as pool:
            await PostgreSQLEventStore(pool).create_schema()
    async with asyncpg.create_pool(control_dsn, min_size=1, max_size=2) as pool:
        await create_schema(pool)
        await PostgreSQLCheckpointRepository(pool).create_schema()
    await seed(source_dsn, TENANT, [uuid4()], EVENTS)
    page = DOCS / "howto" / "move-a-tenant-from-the-command-line.md"
    (configuration,) = [block for block in blocks_of(page) if block.file == "eventsource.toml"]
    (directory / "eventsource.toml").write_text(configuration.text)


def test_no_page_has_a_block_of_an_unknown_language() -> None:
    # The line of the crontab runs in the tests of the fleet's recipes.
    known = {*RUNNABLE, "py", "sh", "toml", "yaml", "sql", "crontab"}
    for page in PAGES:
        for block in blocks_of(page):
            assert block.language in known, f"{name_of(page)}:{block.line}: {block.language}"


def test_every_pool_of_the_pages_opens_without_its_server() -> None:
    for page in PAGES:
        for call in re.findall(r"create_pool\([^)]*\)+", page.read_text()):
            assert "min_size=0" in call, f"{name_of(page)}: {call}"


def test_commands_that_are_not_run_exist() -> None:
    targets = re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    for page in PAGES:
        for block in blocks_of(page):
            if block.language != "sh":
                continue
            for line in block.text.splitlines():
                words = shlex.split(line, comments=True)
                where = f"{name_of(page)}:{block.line}: {line}"
                match words:
                    case ["make", target, *settings]:
                        assert target in targets, where
                        assert all("=" in setting for setting in settings), where
                    case ["eventsource-migrate", *rest]:
                        check_options(rest, where)
                    case ["pip", "install", *_]:
                        pass
                    case _:
                        raise AssertionError(f"{where}: nothing checks this command")


def check_options(words: list[str], where: str) -> None:
    """The verb and each option that is given exist."""
    group = typer.main.get_command(app)
    command = group
    while words and hasattr(command, "commands"):
        assert words[0] in command.commands, where
        command = command.commands[words.pop(0)]
    known = {name for level in (group, command) for each in level.params for name in each.opts}
    for word in words:
        assert not word.startswith("-") or word in known, f"{where}: {word}"


def test_make_targets_that_prose_names_exist() -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    for page in PAGES:
        for target in re.findall(r"`make ([a-z]+)`", page.read_text()):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{name_of(page)}: {target}"


def test_benchmarks_that_pages_name_exist() -> None:
    for page in PAGES:
        for module in re.findall(r"python -m (benchmarks\.\w+)", page.read_text()):
            assert (REPOSITORY / (module.replace(".", "/") + ".py")).exists(), name_of(page)


def anchors_of(page: Path) -> set[str]:
    """The anchors of a page's headings, as they are made on the usual hosts."""
    text = _FENCED.sub("", page.read_text())
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    prose = _SPAN.sub("``", _FENCED.sub("", page.read_text()))
    for link in _LINK.findall(prose):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{name_of(page)}: {link}"
        assert not anchor or anchor in anchors_of(target), f"{name_of(page)}: {link}"


def test_every_page_is_in_the_index() -> None:
    index = DOCS / "README.md"
    linked = {(DOCS / link).resolve() for link in _LINK.findall(index.read_text())}
    decisions = set((DOCS / "decisions").glob("0*.md"))
    for page in set(DOCS.rglob("*.md")) - decisions - {index}:
        assert page in linked, name_of(page)
    listed = (DOCS / "decisions" / "README.md").read_text()
    for page in decisions:
        assert f"({page.name})" in listed, name_of(page)
