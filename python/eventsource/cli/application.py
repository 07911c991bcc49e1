"""The application: its verbs, and the options that they share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, ClassVar

import typer

from eventsource.cli.group import SharedOptionsGroup

#: In the order of the help, where each verb is and the first sentence of its own help: a list of
#: the verbs, or the completion of one, is there before any of them is loaded.
VERBS = {
    "init": ("eventsource.cli.init:init", "Make or upgrade the tables that are needed."),
    "tenants": (
        "eventsource.cli.sizes:tenants",
        "List the largest tenants of a store, and where they live.",
    ),
    "plan": ("eventsource.cli.plan:plan", "Check a move and estimate it; changes nothing."),
    "layouts": (
        "eventsource.cli.layouts:layouts",
        "List the layouts of other libraries' tables, or explain one.",
    ),
    "run": ("eventsource.cli.run:run", "Move a tenant: copy, catch up, verify, ask, cut over."),
    "move": (
        "eventsource.cli.move:move",
        "Move a tenant without asking: start or go on, copy, cut over.",
    ),
    "start": ("eventsource.cli.steer:start", "Record a migration and return."),
    "work": ("eventsource.cli.work:work", "Drive every migration that has no live driver."),
    "status": (
        "eventsource.cli.show:status",
        "Show how far a migration is; without one, all that are under way.",
    ),
    "list": (
        "eventsource.cli.listing:list_migrations",
        "List migrations, newest first, also those that are over.",
    ),
    "lag": ("eventsource.cli.show:lag", "Count the events that the target does not hold yet."),
    "routers": (
        "eventsource.cli.routers:routers",
        "Show which processes that append for the tenant could write at the target.",
    ),
    "verify": ("eventsource.cli.verify:verify", "Compare a tenant's events in two stores."),
    "cutover": ("eventsource.cli.cutover:cutover", "Move the tenant over."),
    "pause": (
        "eventsource.cli.steer:pause",
        "Stop the copy after the current chunk, until it is resumed.",
    ),
    "resume": ("eventsource.cli.steer:resume", "Let a paused migration go on."),
    "throttle": (
        "eventsource.cli.steer:throttle",
        "Limit the copy of a migration, also while it runs.",
    ),
    "abort": ("eventsource.cli.steer:abort", "Remove what was copied; the source stays as it was."),
    "repair": (
        "eventsource.cli.recover:repair",
        "Bring routes, journal and fences in line with what the stores say.",
    ),
    "rebind": (
        "eventsource.cli.recover:rebind",
        "Go on with a store that has become another place.",
    ),
    "audit": (
        "eventsource.cli.audit:audit",
        "Show what happened to a migration and who asked; --json has all details.",
    ),
    "report": (
        "eventsource.cli.report.command:report",
        "Show how a move went: what, by whom, when, and with what proof.",
    ),
    "return": (
        "eventsource.cli.way_back:return_",
        "Take a tenant back to where the migration took it from, with every new event.",
    ),
    "way-back": ("eventsource.cli.way_back:app", "Look at ways back, and end them."),
    "cleanup": (
        "eventsource.cli.cleanup:cleanup",
        "Delete the rows that a tenant has left where it lived before.",
    ),
    "subscriptions": ("eventsource.cli.subscriptions:app", "Carry a tenant's subscriptions over."),
    "fleet": ("eventsource.cli.fleet:app", "Move many tenants, from any number of machines."),
    "demo": (
        "eventsource.cli.demo.command:demo",
        "Watch a tenant move between two embedded servers, and return.",
    ),
}


class LogFormat(StrEnum):
    """How the lines of the log look."""

    TEXT = "text"
    JSON = "json"


class _Verbs(SharedOptionsGroup):
    places: ClassVar = {name: place for name, (place, _) in VERBS.items()}
    in_short: ClassVar = {name: sentence for name, (_, sentence) in VERBS.items()}


app = typer.Typer(
    cls=_Verbs,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    help="Move a tenant's event streams to another PostgreSQL store while it is in use.",
    epilog=(
        "The options above may stand anywhere in a command. A first move: init, plan TENANT --to "
        "STORE, run TENANT --to STORE. Exit codes: 0 done, 1 failed, 2 usage, "
        "3 preflight refused, 4 inconsistent, 5 cutover timed out, 75 try again, 130 interrupted."
    ),
)


def _version(wanted: bool) -> None:
    if wanted:
        from eventsource import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _shared(
    ctx: typer.Context,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            envvar="EVENTSOURCE_CONFIG",
            metavar="PATH",
            help="The configuration. [default: eventsource.toml]",
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Replace an entry of it, such as defaults.batch_size=5000. Repeatable.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    operator: Annotated[
        str | None,
        typer.Option(
            "--operator",
            envvar="EVENTSOURCE_OPERATOR",
            metavar="NAME",
            help="Who asks, for the audit log. [default: the current account]",
        ),
    ] = None,
    verbose: Annotated[
        int,
        typer.Option(
            "--verbose", "-v", count=True, help="Print the log to standard error; -vv all of it."
        ),
    ] = 0,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print the result only, and what went wrong.")
    ] = False,
    log_format: Annotated[
        LogFormat,
        typer.Option("--log-format", envvar="EVENTSOURCE_LOG_FORMAT", help="Lines of the log."),
    ] = LogFormat.TEXT,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Print and exit.")
    ] = False,
) -> None:
    from eventsource.cli import invocation

    ctx.obj = invocation.begin(
        config, overrides or [], operator, as_json=as_json, quiet=quiet,
        verbosity=verbose, json_log=log_format is LogFormat.JSON,
        is_named=getattr(ctx.get_parameter_source("config"), "name", "") == "COMMANDLINE",
    )  # fmt: skip
