"""The tables of the reference say what the code says."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import typer

import eventsource
from eventsource.cli import app, config
from eventsource.cli.exits import ExitCode, exit_code_of
from eventsource.dataplane import DataPlaneError
from eventsource.errors import EventSourceError
from eventsource.migration import MigrationConfig, MigrationError
from eventsource.migration.states import FINAL, ROUTE_STATES, TRANSITIONS, MigrationState
from tests.support import REPOSITORY
from tests.support.page_runner import blocks_of
from tests.support.reference_tables import code_in, rows_of, sections_of

REFERENCE = REPOSITORY / "docs" / "reference"


def everything_public() -> None:
    """Import all of the package, so that every error class is known."""
    for module in pkgutil.walk_packages(eventsource.__path__, "eventsource."):
        if not module.name.endswith("._core"):
            importlib.import_module(module.name)


def errors_below(root: type[BaseException]) -> set[type[BaseException]]:
    found = {root}
    for each in root.__subclasses__():
        if each.__module__.startswith("eventsource."):
            found |= errors_below(each)
    return found


# Command line


def commands(command: Any, path: tuple[str, ...] = ()) -> dict[str, Any]:
    if not hasattr(command, "commands"):
        return {" ".join(path): command}
    found: dict[str, Any] = {}
    for name, each in command.commands.items():
        found |= commands(each, (*path, name))
    return found


VERBS = commands(typer.main.get_command(app))


def test_every_verb_has_its_section() -> None:
    sections = sections_of(REFERENCE / "command-line.md")
    others = {"Command line", "Options of every verb", "Verbs", "Exit codes", "JSON"}
    assert set(sections) - others == set(VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_has_the_arguments_and_options_of_its_section(verb: str) -> None:
    section = sections_of(REFERENCE / "command-line.md")[verb]
    usage = code_in(section)[0]
    assert usage.startswith(f"eventsource-migrate {verb}")
    arguments: list[str] = []
    options: set[str] = set()
    for each in VERBS[verb].params:
        if each.param_type_name == "argument":
            metavar = each.metavar.replace("[", "").replace("]", "").replace("...", "")
            arguments.append(metavar if each.required else f"[{metavar}]")
        else:
            options.update(each.opts)
            if each.required:
                assert re.search(rf"(?<!\[){each.opts[0]} ", usage), usage
    words = usage.removeprefix(f"eventsource-migrate {verb}").replace("]...", "]")
    assert re.findall(r"(?<!\S)\[?[A-Z]+\]?(?= |$)", re.sub(r"\[?--.*", "", words)) == arguments
    described = {name for line in section.splitlines() if line.startswith("- ")
                 for name in code_in(line.partition(":")[0])}  # fmt: skip
    assert described == options
    shown = set(re.findall(r"--[a-z][a-z-]*", usage))
    assert shown == {name for name in options if name.startswith("--")}


def test_the_shared_options_are_those_of_the_command() -> None:
    section = sections_of(REFERENCE / "command-line.md")["Options of every verb"]
    documented = {code_in(row[0])[0].split()[0]: code_in(row[1]) for row in rows_of(section)}
    actual = {
        each.opts[0]: [each.envvar] if each.envvar else []
        for each in typer.main.get_command(app).params
    }
    assert documented == actual | {"--help": []}


def test_the_exit_codes_are_those_of_the_command() -> None:
    section = sections_of(REFERENCE / "command-line.md")["Exit codes"]
    assert {int(row[0]) for row in rows_of(section)} == {int(code) for code in ExitCode}


# Configuration


def test_the_fields_of_a_configuration_have_the_defaults_of_the_page() -> None:
    section = sections_of(REFERENCE / "configuration.md")["MigrationConfig"]
    documented = {code_in(row[0])[0]: code_in(row[1])[0] for row in rows_of(section)}
    actual = {each.name: each.default for each in fields(MigrationConfig)}
    assert list(documented) == list(actual)
    for name, text in documented.items():
        default = actual[name].value if isinstance(actual[name], Enum) else actual[name]
        assert text.replace('"', "'") == repr(default), name


def test_the_bounds_of_a_configuration_are_those_of_the_page() -> None:
    section = sections_of(REFERENCE / "configuration.md")["MigrationConfig"]
    for row in rows_of(section):
        name, least, most = code_in(row[0])[0], row[2], row[3]
        if not least:
            continue
        whole = type(MigrationConfig.__dataclass_fields__[name].default) is int
        number = int if whole else float
        for bound in (least, most):
            configured(name, number(bound))
        step = 1 if whole else 0.001
        for beyond in (number(least) - step, number(most) + step):
            with pytest.raises(ValueError, match=name):
                configured(name, beyond)


def configured(name: str, value: Any) -> MigrationConfig:
    return MigrationConfig(**{name: value})


def test_the_configuration_file_of_the_page_is_complete_and_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CONTROL_DSN", "SHARED_DSN", "DEDICATED_DSN", "MASTER_DSN"):
        monkeypatch.setenv(name, f"postgresql://ada:secret@localhost/{name.lower()}")
    (block,) = [each for each in blocks_of(REFERENCE / "configuration.md") if each.file]
    path = tmp_path / "eventsource.toml"
    path.write_text(block.text)
    settings = config.load(path)
    assert (settings.default_store, sorted(settings.stores)) == (
        "shared",
        ["dedicated-a", "shared"],
    )
    assert settings.route_hook is not None
    assert sorted(settings.route_hook.values) == ["dedicated-a", "shared"]
    assert settings.migration == MigrationConfig(batch_size=5000, cutover_timeout_seconds=2.0)
    for each in fields(config.StoreSettings):
        assert re.search(rf"^{each.name} = ", block.text, re.MULTILINE), each.name


# States


def test_the_transitions_are_those_of_the_page() -> None:
    rows = rows_of(sections_of(REFERENCE / "states.md")["Of a migration"])
    documented = {code_in(row[0])[0]: set(code_in(row[1])) for row in rows}
    assert documented == {
        str(state): {str(each) for each in following} for state, following in TRANSITIONS.items()
    }
    for row in rows:
        state = MigrationState(code_in(row[0])[0])
        assert code_in(row[2]) == ([str(ROUTE_STATES[state])] if state in ROUTE_STATES else [])


def test_the_final_states_and_those_of_routes_are_those_of_the_page() -> None:
    sections = sections_of(REFERENCE / "states.md")
    final = re.search(r"^(.*) are final", sections["Of a migration"], re.MULTILINE)
    assert final is not None
    assert set(code_in(final[1])) == {str(state) for state in FINAL}
    routes = {code_in(row[0])[0] for row in rows_of(sections["Of a tenant's route"])}
    assert routes == {str(state) for state in eventsource.migration.TenantMigrationState}


def test_the_states_of_a_fence_are_those_of_the_page() -> None:
    rows = rows_of(sections_of(REFERENCE / "states.md")["Of a fence"])
    script = (REPOSITORY / "python/eventsource/stores/sql/fences.sql").read_text()
    allowed = re.search(r"check \(state in \((.*?)\)\)", script)
    assert allowed is not None
    assert {code_in(row[1])[0] for row in rows} == set(re.findall(r"'(\w+)'", allowed[1]))


# Errors


def error_rows() -> dict[str, list[str]]:
    sections = sections_of(REFERENCE / "errors.md")
    rows = [*rows_of(sections["Of events and stores"]), *rows_of(sections["Of migrations"])]
    return {code_in(row[0])[0]: row for row in rows}


def test_every_error_is_in_the_reference_and_among_the_troubles() -> None:
    everything_public()
    page = (REFERENCE / "errors.md").read_text()
    troubles = sections_of(REPOSITORY / "docs" / "howto" / "troubleshoot.md")
    for error in errors_below(EventSourceError):
        if error.__module__ == "eventsource.failpoints":
            continue  # a test's own, never met otherwise
        assert f"`{error.__name__}`" in page or f".{error.__name__}`" in page, error
        assert error is EventSourceError or error.__name__ in troubles, error


def test_an_error_has_the_module_code_attributes_and_exit_code_of_the_page() -> None:
    sections = sections_of(REFERENCE / "errors.md")
    for row in rows_of(sections["Of events and stores"]):
        error = getattr(importlib.import_module(code_in(row[1])[0]), code_in(row[0])[0])
        assert_attributes(error, code_in(row[2]))
    for row in rows_of(sections["Of migrations"]):
        error = getattr(eventsource.migration, code_in(row[0])[0])
        assert issubclass(error, MigrationError)
        assert error.code == code_in(row[1])[0]
        assert_attributes(error, code_in(row[2]))
        assert exit_code_of(error.__new__(error)) == int(row[4]), error


def assert_attributes(error: type[BaseException], documented: list[str]) -> None:
    own = error.__dict__.get("__init__")
    assigned = re.findall(r"self\.(\w+) =", inspect.getsource(own)) if own else []
    assert documented == list(dict.fromkeys(assigned)), error


def test_the_kinds_of_the_data_plane_are_those_of_the_page() -> None:
    rows = rows_of(sections_of(REFERENCE / "errors.md")["Of the data plane"])
    documented = {code_in(row[0])[0]: int(row[2]) for row in rows}
    told = set(re.findall(r"- `(\w+)`:", inspect.getdoc(DataPlaneError) or ""))
    assert set(documented) == told
    for kind, code in documented.items():
        assert exit_code_of(DataPlaneError(kind, "")) == code, kind


def test_the_sqlstates_of_the_guard_are_those_of_the_page() -> None:
    rows = rows_of(sections_of(REFERENCE / "errors.md")["SQLSTATEs of the guard"])
    folder = REPOSITORY / "python/eventsource/stores/sql"
    script = "".join(file.read_text() for file in sorted(folder.glob("*.sql")))
    raised = set(re.findall(r"errcode = '(EVF\w{2})'", script))
    assert {code_in(row[0])[0] for row in rows} == raised | {"55P03", "40001"}


# Python API


def modules() -> list[str]:
    return [name for name in sections_of(REFERENCE / "python-api.md") if "eventsource" in name]


@pytest.mark.parametrize("name", modules())
def test_a_module_offers_the_names_of_the_page(name: str) -> None:
    module = importlib.import_module(name)
    documented = [
        code_in(row[0])[0] for row in rows_of(sections_of(REFERENCE / "python-api.md")[name])
    ]
    assert sorted(documented) == sorted(module.__all__)
    for each in documented:
        getattr(module, each)


@pytest.mark.parametrize("name", modules())
def test_every_public_class_and_method_says_what_it_is(name: str) -> None:
    module = importlib.import_module(name)
    silent = []
    for each in module.__all__:
        public = getattr(module, each)
        if inspect.isclass(public):
            silent += [
                f"{each}.{member}"
                for member, value in vars(public).items()
                if not member.startswith("_") and is_method(value) and not inspect.getdoc(value)
            ]
        if callable(public) and not inspect.getdoc(public):
            silent.append(each)
    assert silent == []


def test_every_package_with_public_names_is_in_the_page() -> None:
    packages = {"eventsource"}
    for found in pkgutil.walk_packages(eventsource.__path__, "eventsource."):
        private = found.name.startswith(("eventsource.cli", "eventsource._"))
        if found.ispkg and not private and hasattr(importlib.import_module(found.name), "__all__"):
            packages.add(found.name)
    assert packages <= set(modules())


def classes() -> list[str]:
    return [name for name in sections_of(REFERENCE / "python-api.md") if re.match("[A-Z]", name)][
        1:
    ]


@pytest.mark.parametrize("name", classes())
def test_a_class_has_the_methods_or_fields_of_the_page(name: str) -> None:
    section = sections_of(REFERENCE / "python-api.md")[name]
    documented = [each for row in rows_of(section) for each in code_in(row[0])]
    found = [getattr(importlib.import_module(each), name, None) for each in modules()]
    cls = next(each for each in found if each is not None)
    if is_dataclass(cls):
        expected = {each.name for each in fields(cls)}
    else:
        own = {
            each: value
            for base in reversed(cls.__mro__)
            if base.__module__.startswith("eventsource.migration.") or base is cls
            for each, value in vars(base).items()
        }
        expected = {each for each in own if not each.startswith("_") and is_method(own[each])}
        if "methods\nof `EventStore`" in section or "methods of `EventStore`" in section:
            expected -= set(vars(eventsource.stores.EventStore))
    assert sorted(documented) == sorted(expected)


def is_method(value: object) -> bool:
    return callable(value) or isinstance(value, (property, classmethod, staticmethod))


# Database objects


async def test_the_objects_of_a_database_are_those_of_the_page(
    source_dsn: str, control_dsn: str
) -> None:
    sections = sections_of(REFERENCE / "database-objects.md")
    async with asyncpg.create_pool(source_dsn, min_size=1, max_size=2) as pool:
        await eventsource.stores.postgresql.PostgreSQLEventStore(pool).create_schema()
        found = await names(pool)
        columns = {row[0]: row[1] for row in await pool.fetch(_COLUMNS)}
    rows = rows_of(sections["In the database of a store"])
    # Others are those of tables.
    assert {code_in(row[0])[0] for row in rows} == found | {"eventsource_fence_secret"}
    documented: dict[str, str] = {}
    for row in rows_of(sections["The event table"]):
        types = code_in(row[1])
        of_each = types if len(types) > 1 else types * len(code_in(row[0]))
        documented |= dict(zip(code_in(row[0]), of_each, strict=True))
    assert documented == columns

    async with asyncpg.create_pool(control_dsn, min_size=1, max_size=2) as pool:
        await eventsource.migration.create_schema(pool)
        found = await names(pool)
    rows = rows_of(sections["In the control database"])
    assert {code_in(row[0])[0] for row in rows} == found


_COLUMNS = """
select attname::text, replace(format_type(atttypid, atttypmod), 'timestamp with time zone',
                              'timestamptz')
from pg_attribute where attrelid = 'events'::regclass and attnum > 0
"""


async def names(pool: asyncpg.Pool) -> set[str]:
    """Tables, functions and triggers of the schema."""
    rows = await pool.fetch(
        "select relname::text from pg_class where relkind = 'r'"
        "   and relnamespace = 'public'::regnamespace"
        " union select proname::text from pg_proc where pronamespace = 'public'::regnamespace"
        " union select tgname::text from pg_trigger where not tgisinternal"
    )
    return {row[0] for row in rows}


def test_the_triggers_and_locks_of_a_migration_are_those_of_the_page() -> None:
    sections = sections_of(REFERENCE / "database-objects.md")
    migration = REPOSITORY / "python" / "eventsource" / "migration"
    kinds = eventsource.migration.tables.guard.TRIGGER_KINDS
    triggers = {code_in(row[0])[0] for row in rows_of(sections["Triggers of a migration"])}
    assert triggers == {
        *(f"zzz_eventsource_guard_N_{kind}" for kind in (*kinds, "loading")),
        *(f"zzz_eventsource_guard_{kind}" for kind in kinds),
    }
    sources = "".join(path.read_text() for path in migration.rglob("*.py"))
    classes = set(re.findall(r"class (\d{10})", sections["Locks"]))
    assert classes == set(re.findall(r"^\w*LOCK\w* = \(?(\d{10})\b", sources, re.MULTILINE))
