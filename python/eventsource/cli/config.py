"""`eventsource.toml`: which databases there are and how migrations are carried out.

::

    default_store = "shared"          # where tenants without a route live

    [control]
    dsn = "postgresql://migrator:${CONTROL_PASSWORD}@db1/control"

    [stores.shared]
    dsn = "postgresql://migrator:${SHARED_PASSWORD}@db1/events"
    table = "events"                  # the default
    schema = "app"                    # the search path decides when it is left out
    application_role = "app"          # `plan` checks its rights; else of those connected now
    group = "db1"                     # stores of one server share one limit of a fleet

    [stores.marten]                   # the tables of another library, see `layouts`
    dsn = "${MARTEN_DSN}"
    layout = "marten"

    [stores.dedicated-a]
    dsn = "${DEDICATED_A_DSN}"

    [subscriptions]                   # where the checkpoints are; the control database if left out
    dsn = "postgresql://migrator@db1/read_models"

    [fleet]
    at_once = 4                       # tenants that move at the same time to each group
    limits = { db1 = 2 }              # or to this one
    max_disk = { db1 = "2 TB" }       # what may lie in the tablespace of its databases

    [defaults]                        # any field of MigrationConfig
    batch_size = 5000

    [hooks]                           # a command or a URL that hears of each change
    on_change = "notify-chat --room ops"

``${NAME}`` in any text is replaced by the environment variable of that name, as it is: a password
with reserved characters has to be percent-encoded as everywhere in a URI.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from eventsource.cli.fleet_settings import FleetSettings
from eventsource.dsn.reading import parse
from eventsource.dsn.redaction import redact
from eventsource.errors import ConnectionDetailsError, EventSourceError
from eventsource.identifiers import quote_identifier
from eventsource.migration.layouts.declaration import Layout, LayoutError
from eventsource.migration.layouts.presets import OWN, presets
from eventsource.migration.layouts.reading import layout_of
from eventsource.migration.models import MigrationConfig
from eventsource.migration.routing.route_hook import RouteHook

DEFAULT_FILE = Path("eventsource.toml")

_TABLES = (
    *("control", "default_store", "defaults", "fleet", "hooks", "layouts", "route_hook"),
    *("stores", "subscriptions"),
)

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


class ConfigError(EventSourceError):
    """The configuration cannot be used; the message names the entry and what it should be."""


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """One event store: its database, the table that holds the events, and who writes there."""

    dsn: str = field(repr=False)
    table: str = "events"
    schema: str | None = None
    application_role: str | None = None
    layout: Layout | None = None
    group: str | None = None


@dataclass(frozen=True, slots=True)
class Settings:
    """A whole configuration, checked. The connection strings hold passwords.

    Attributes:
        origin: where it came from, for messages.
        control_schema: schema of the control tables; None leaves it to the search path.
        subscriptions_dsn: database of the subscription checkpoints.
        migration: how migrations started with it are carried out.
        layouts: those of the package and of the file, by name.
        on_change: a command or a URL that gets each change that a process of it makes.
        route_hook: what follows each route that changes.
    """

    origin: str
    control_dsn: str = field(repr=False)
    control_schema: str | None
    subscriptions_dsn: str = field(repr=False)
    stores: Mapping[str, StoreSettings]
    default_store: str
    migration: MigrationConfig
    layouts: Mapping[str, Layout] = field(default_factory=dict)
    on_change: str | None = field(default=None, repr=False)
    fleet: FleetSettings = field(default_factory=FleetSettings)
    route_hook: RouteHook | None = None

    @property
    def groups(self) -> dict[str, str]:
        """The group of each store."""
        return {store_id: store.group or store_id for store_id, store in self.stores.items()}

    @property
    def group_limits(self) -> dict[str, int]:
        """How many tenants move to each group at the same time."""
        found = dict.fromkeys(self.groups.values(), self.fleet.at_once)
        return found | {name: at for name, at in self.fleet.limits.items() if name in found}

    def require_store(self, store_id: str) -> StoreSettings:
        """The store with this id, or ConfigError."""
        try:
            return self.stores[store_id]
        except KeyError:
            raise ConfigError(
                f"{self.origin} has no store {store_id!r}: add [stores.{store_id}] or take one of "
                f"{', '.join(sorted(self.stores))}"
            ) from None


def load(path: Path | None, overrides: Iterable[str] = ()) -> Settings:
    """Read a configuration file; ``overrides`` are ``KEY=VALUE`` with keys like ``control.dsn``.

    Without a path ``eventsource.toml`` of the working directory is taken; with overrides there
    may be no file at all.

    Raises:
        ConfigError: it cannot be read, or an entry is missing, unknown or wrong.
    """
    overrides = list(overrides)
    origin = str(path or DEFAULT_FILE)
    tree: dict[str, Any] = {}
    if path is not None or DEFAULT_FILE.is_file():
        tree = _parse(path or DEFAULT_FILE)
    elif overrides:
        origin = "the command line"
    else:
        raise ConfigError(
            f"there is no {DEFAULT_FILE} here: write one, name another with --config or "
            "EVENTSOURCE_CONFIG, or give its entries with --set"
        )
    for override in overrides:
        _put(tree, override)
    return _checked(origin, _interpolated(tree, origin))


def _parse(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from None


def _put(tree: dict[str, Any], override: str) -> None:
    """Set one entry; a store's id is everything between the first and the last dot."""
    key, separator, text = override.partition("=")
    if not separator or not key.strip():
        raise ConfigError(
            f"--set {redact(override)}: write KEY=VALUE, such as stores.shared.dsn=postgresql://…"
        )
    table, _, rest = key.strip().partition(".")
    where = [table] if not rest else [table, rest]
    if table == "stores" and "." in rest:
        store_id, _, name = rest.rpartition(".")
        where = [table, store_id, name]
    branch = tree
    for name in where[:-1]:
        branch = branch.setdefault(name, {})
        if not isinstance(branch, dict):
            raise ConfigError(f"--set {key}: {name} is not a table of the configuration")
    branch[where[-1]] = _value(text)


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _interpolated(value: Any, where: str) -> Any:
    if isinstance(value, dict):
        return {key: _interpolated(inner, f"{where}: {key}") for key, inner in value.items()}
    if not isinstance(value, str):
        return value

    def variable(match: re.Match[str]) -> str:
        try:
            return os.environ[match[1]]
        except KeyError:
            raise ConfigError(
                f"{where}: the environment variable {match[1]} is not set; export it"
            ) from None

    return _VARIABLE.sub(variable, value)


def _checked(origin: str, tree: dict[str, Any]) -> Settings:
    _refuse_unknown(origin, tree, _TABLES)
    control = _table(origin, tree, "control")
    _refuse_unknown(f"{origin}: [control]", control, ("dsn", "schema"))
    control_dsn = _dsn(f"{origin}: [control]", control)
    subscriptions = _table(origin, tree, "subscriptions")
    _refuse_unknown(f"{origin}: [subscriptions]", subscriptions, ("dsn",))
    layouts = _layouts(origin, _table(origin, tree, "layouts"))
    stores = {
        store_id: _store(f"{origin}: [stores.{store_id}]", entry, layouts)
        for store_id, entry in _table(origin, tree, "stores").items()
    }
    if not stores:
        raise ConfigError(f"{origin}: there is no store; add [stores.<id>] with its dsn")
    default_store = _text(origin, tree, "default_store")
    if default_store not in stores:
        raise ConfigError(
            f"{origin}: default_store is {default_store!r}, which is none of "
            f"{', '.join(sorted(stores))}"
        )
    return Settings(
        origin=origin,
        control_dsn=control_dsn,
        control_schema=_names(f"{origin}: [control]", control, ("schema",)).get("schema"),
        subscriptions_dsn=(
            _dsn(f"{origin}: [subscriptions]", subscriptions) if subscriptions else control_dsn
        ),
        stores=stores,
        default_store=default_store,
        migration=_migration(f"{origin}: [defaults]", _table(origin, tree, "defaults")),
        fleet=_fleet(f"{origin}: [fleet]", _table(origin, tree, "fleet"), stores),
        layouts=layouts,
        on_change=_hook(f"{origin}: [hooks]", _table(origin, tree, "hooks")),
        route_hook=_route_hook(f"{origin}: [route_hook]", tree, stores),
    )


def _fleet(where: str, entry: dict[str, Any], stores: Mapping[str, StoreSettings]) -> FleetSettings:
    try:
        return FleetSettings.from_entry(entry, {s.group or name for name, s in stores.items()})
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from None


def _layouts(origin: str, entries: dict[str, Any]) -> dict[str, Layout]:
    """Those of the file beside those of the package, which keep their names."""
    found = dict(presets())
    for name, entry in entries.items():
        if name in found:
            raise ConfigError(
                f"{origin}: [layouts.{name}] is the name of a layout of the package: take another"
            )
        if not isinstance(entry, dict):
            raise ConfigError(f"{origin}: [layouts.{name}] must be a table")
        try:
            found[name] = layout_of(name, entry)
        except LayoutError as error:
            raise ConfigError(f"{origin}: {error}") from None
    return found


def _route_hook(where: str, tree: dict[str, Any], stores: Iterable[str]) -> RouteHook | None:
    if not (entry := _table(where, tree, "route_hook")):
        return None
    _refuse_unknown(where, entry, ("dsn", "sql", "values"))
    values = _table(where, entry, "values")
    _refuse_unknown(f"{where}: values", values, stores)
    given = {each: _text(f"{where}: values", values, each) for each in values}
    return RouteHook(_dsn(where, entry), _text(where, entry, "sql"), given)


def _hook(where: str, entry: dict[str, Any]) -> str | None:
    _refuse_unknown(where, entry, ("on_change",))
    if not entry:
        return None
    hook = _text(where, entry, "on_change")
    try:
        words = shlex.split(hook)
    except ValueError as error:
        raise ConfigError(f"{where}: on_change is no command: {error}") from None
    if not hook.startswith(("https://", "http://")) and shutil.which(words[0]) is None:
        raise ConfigError(
            f"{where}: on_change names the program {words[0]!r}, which is not found; give its path,"
            " or a URL that begins with https://"
        )
    return hook


def _store(where: str, entry: Any, layouts: Mapping[str, Layout]) -> StoreSettings:
    if not isinstance(entry, dict):
        raise ConfigError(f"{where} must be a table with a dsn")
    names = ("table", "schema", "application_role")
    _refuse_unknown(where, entry, ("dsn", "group", "layout", *names))
    named = _names(where, entry, names)
    group = _text(where, entry, "group") if entry.get("group") is not None else None
    if entry.get("layout") in (None, OWN):
        return StoreSettings(
            _dsn(where, entry), named.get("table", "events"), named.get("schema"),
            named.get("application_role"), group=group,
        )  # fmt: skip
    layout = layouts.get(_text(where, entry, "layout"))
    if layout is None:
        raise ConfigError(
            f"{where}: there is no layout {entry['layout']!r}; `eventsource-migrate layouts` lists"
            f" them, and [layouts.{entry['layout']}] would declare it"
        )
    for name in ("table", "application_role"):
        if name in named:
            raise ConfigError(f"{where}: {name} is for our own tables: leave it out with a layout")
    return StoreSettings(_dsn(where, entry), schema=named.get("schema"), layout=layout, group=group)


def _names(where: str, entry: dict[str, Any], keys: Iterable[str]) -> dict[str, str]:
    """The entries that are there, each one identifier."""
    names = {key: _text(where, entry, key) for key in keys if entry.get(key) is not None}
    for key, name in names.items():
        try:
            quote_identifier(name)
        except ValueError as error:
            raise ConfigError(f"{where}: {key}: {error}") from None
    return names


def _migration(where: str, entries: dict[str, Any]) -> MigrationConfig:
    known = {each.name: each.default for each in fields(MigrationConfig)}
    _refuse_unknown(where, entries, known)
    for name, value in entries.items():
        if isinstance(known[name], bool) and not isinstance(value, bool):
            raise ConfigError(f"{where}: {name} must be true or false, not {value!r}")
        if type(known[name]) is int and not isinstance(value, int):
            raise ConfigError(f"{where}: {name} must be a whole number, not {value!r}")
    try:
        return MigrationConfig(**entries)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from None


def _table(where: str, tree: dict[str, Any], name: str) -> dict[str, Any]:
    entry = tree.get(name, {})
    if not isinstance(entry, dict):
        raise ConfigError(f"{where}: [{name}] must be a table")
    return entry


def _text(where: str, table: dict[str, Any], name: str) -> str:
    value = table.get(name)
    if value is None:
        raise ConfigError(f"{where}: {name} is missing; add it")
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{where}: {name} must be a non-empty text")
    return value


def _dsn(where: str, table: dict[str, Any]) -> str:
    dsn = _text(where, table, "dsn")
    try:
        parse(dsn)
    except ConnectionDetailsError as error:
        raise ConfigError(f"{where}: {error}") from None
    return dsn


def _refuse_unknown(where: str, table: Mapping[str, Any], known: Iterable[str]) -> None:
    known = sorted(known)
    for name in table:
        if name not in known:
            raise ConfigError(f"{where}: unknown entry {name!r}; known are {', '.join(known)}")
