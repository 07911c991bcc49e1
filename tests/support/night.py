"""An operator's night at a terminal.

A copy, a store that is down, a cutover that somebody is in the way of, the move, and the way back.
"""

from __future__ import annotations

import asyncio
import contextlib
import html
import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import asyncpg

from eventsource.testing import Cluster
from tests.support.browser import PROGRAM, browser
from tests.support.command_line import DEDICATED, CommandLine, wait_until
from tests.support.screen import Screen
from tests.support.terminal import Terminal

EVENTS = 12_000

#: A copy of some seconds, and a cutover that is given up soon, but not before a command has looked.
SETTINGS = "max_events_per_second = 3000\nbatch_size = 10\ncutover_timeout_seconds = 4\n"

#: A session is named before the cutover when its transaction has been open for so long (seconds).
LONG_OPEN = 1.5

_INSERT = (
    "insert into events (event_id, aggregate_id, aggregate_type, event_type, tenant_id, version,"
    " timestamp, payload) values (gen_random_uuid(), gen_random_uuid(), 'A', 'E', $1, 1, now(),"
    " '{}')"
)


@dataclass
class Scene:
    """A command, and what was to be seen at some moment of it.

    Attributes:
        command: as it is typed.
        moment: at its end, or what was going on.
    """

    command: str
    moment: str
    screen: Screen

    @property
    def text(self) -> str:
        return "\n".join([f"$ {self.command}", *self.screen.lines()])


@dataclass
class Night:
    """What was typed in one night at terminals of one size, and what was to be seen."""

    cli: CommandLine
    rows: int
    columns: int
    scenes: list[Scene] = field(default_factory=list)

    def begin(self, *args: object) -> Terminal:
        return Terminal(self.cli, *args, size=(self.rows, self.columns))

    def look(self, terminal: Terminal, *args: object, moment: str) -> Screen:
        """Keep what is to be seen now."""
        if terminal.process.returncode is None:
            terminal.settle()
        screen = Screen(self.columns)
        screen.feed(terminal.output)
        words = (str(each) for each in ("eventsource-migrate", *args))
        self.scenes.append(Scene(shlex.join(words), moment, screen))
        return screen

    def whole(self, *args: object, answer: str | None = None, exit_code: int = 0) -> Screen:
        """A command from its beginning to its end; ``answer`` is typed when it asks."""
        terminal = self.begin(*args)
        if answer is not None:
            terminal.read_until("[y/N]", 60)
            terminal.type(f"{answer}\n")
        assert terminal.end() == exit_code, terminal.output
        return self.look(terminal, *args, moment="at its end")

    def scene(self, verb: str, moment: str = "at its end") -> Scene:
        """The first of a verb."""
        return next(
            each
            for each in self.scenes
            if each.command.split()[1] == verb and each.moment == moment
        )


def play(cli: CommandLine, target: Cluster, rows: int, columns: int) -> Night:
    """The night at terminals of this size; ``target`` is the server of the dedicated store."""
    night = Night(cli, rows, columns)
    cli.write_config(SETTINGS)
    cli("init")
    cli.seed(EVENTS)
    move, one = (cli.tenant, "--to", DEDICATED), ("--tenant", cli.tenant)
    night.whole("plan", *move)
    _copy_with_an_outage(night, target, move, one)
    with report_in_the_way(cli.source_dsn, cli.tenant):
        cutover = night.begin("cutover", *one)
        cutover.read_until("[y/N]")
        cutover.type("y\n")
        cutover.read_until("given up after")
        night.look(cutover, "cutover", *one, moment="waiting")
        assert cutover.end() == 5, cutover.output
        night.look(cutover, "cutover", *one, moment="timed out")
        night.whole("status", *one)
    night.whole("cutover", *one, "--rehearse")
    night.whole("cutover", *one, answer="y")
    night.whole("status", *one)
    night.whole("list")
    night.whole("audit", *one)
    night.whole("way-back", "status")
    night.whole("return", *one, answer="y")
    night.whole("list")
    night.whole("verify", cli.tenant)
    return night


def _copy_with_an_outage(
    night: Night, target: Cluster, move: tuple[object, ...], one: tuple[object, ...]
) -> None:
    cli = night.cli
    copy = night.begin("run", *move)
    copying = "select 1 from tenant_migrations where state = 'bulk_copy' and events_copied > 3000"
    wait_until(lambda: bool(cli.sql("control", copying)))
    copy.read_until(" of ")
    night.look(copy, "run", *move, moment="copying")
    target.crash()
    try:
        waiting = "select 1 from tenant_migrations where error_message is not null"
        wait_until(lambda: bool(cli.sql("control", waiting)))
        copy.read_until("waiting")
        night.look(copy, "run", *move, moment="a store is down")
        night.whole("status", *one)
    finally:
        target.restart()
    copy.read_until("[y/N]", 90)
    copy.type("n\n")
    assert copy.end() == 0, copy.output
    night.look(copy, "run", *move, moment="at its end")


@contextlib.contextmanager
def report_in_the_way(dsn: str, tenant: UUID) -> Iterator[None]:
    """A session with an append that is not committed, until the block ends."""
    with asyncio.Runner() as runner:

        async def begin() -> asyncpg.Connection[asyncpg.Record]:
            connection = await asyncpg.connect(
                dsn, server_settings={"application_name": "nightly-report"}
            )
            await connection.execute("begin")
            await connection.execute(_INSERT, tenant)
            return connection

        report = runner.run(begin())
        time.sleep(LONG_OPEN)
        try:
            yield
        finally:
            runner.run(report.close())


def keep(night: Night, directory: Path) -> None:
    """Write the transcripts as text, and where there is a browser a picture of them."""
    name = f"night-{night.columns}x{night.rows}"
    text = "\n\n".join(f"[{each.moment}]\n{each.text}" for each in night.scenes)
    (directory / f"{name}.txt").write_text(f"{text}\n")
    page = directory / f"{name}.html"
    shown = "\n\n".join(
        f"<b>$ {html.escape(each.command)}</b>\n{each.screen.as_html()}" for each in night.scenes
    )
    page.write_text(
        '<!doctype html><meta charset="utf-8"><style>body{margin:8px;background:#fff}'
        f"pre{{font:13px/1.25 monospace;width:{night.columns}ch;border-right:1px solid #bbb}}"
        f"</style><pre>{shown}</pre>"
    )
    if PROGRAM is None:
        return
    height = 17 * sum(each.text.count("\n") + 2 for each in night.scenes) + 40
    with browser(directory) as tab:
        tab.open(page.as_uri(), 8 * night.columns + 40, height)
        tab.until("document.readyState === 'complete'")
        tab.picture(directory / f"{name}.png")
