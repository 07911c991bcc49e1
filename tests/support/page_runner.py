"""Runs a page of the documentation: what is printed there is what happens.

A page is a sequence of fenced blocks, and their languages say what a test does with them:

- A block whose first line is a comment that names a file (``# eventsource.toml``,
  ``-- blockers.sql``) is written to the page's working directory under that name.
- ``python`` runs in one namespace per page, with ``await`` at the top level.
- ``text`` is what the Python since the last such block has printed.
- ``console``: lines that begin with ``$`` are commands of one shell session per page, lines that
  begin with ``>`` continue them. The lines below are what the command prints. A command that fails
  is followed by ``$ echo $?``. Where a page shows an id and the command printed another one, later
  commands of the page that name the first get the second.

Other languages are not run. Environment and working directory are the caller's business.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import inspect
import io
import os
import re
import shlex
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any, Self

from typer.testing import CliRunner

from eventsource.cli import app
from tests.support import REPOSITORY

RUNNABLE = frozenset({"python", "text", "console"})

_FENCED = re.compile(r"^```([a-z]+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"(?:#|--) ([\w.-]+\.(?:py|sql|toml))\n")

_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
# What differs from run to run; the order matters.
_VARYING = (
    (_ID, "ID"),
    (re.compile(r"\b[0-9a-f]{64}\b"), "DIGEST"),
    (re.compile(r"\d[\d.,]*"), "N"),
    (re.compile(r"[ -]+"), " "),
)
# Progress: a terminal replaces such a line by the next one, and how many there are depends on the
# machine. Pages show some of them; nothing is compared.
_PROGRESS = re.compile(
    r"(servers|writers) +starting |seed +writing |prepare |copy |copied +[\d,]+ events in |"
    r"verify |check |lag +[\d,]+ events$|cutover +(asking|for driver |for this process)|"
    r"return +carrying |waiting for a driver: "
)

# A command that needs nothing of a shell.
_PLAIN = re.compile(r"eventsource-migrate [^|&;<>()$`\\*?\n]*")

PATIENCE = 60.0


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block; ``line`` is where its text begins in the page, from 1."""

    language: str
    text: str
    line: int

    @property
    def file(self) -> str | None:
        """The name under which the block is saved, if it names one."""
        named = _FILE.match(self.text)
        return named[1] if named else None


def blocks_of(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(found[1], found[2], text.count("\n", 0, found.start()) + 2)
        for found in _FENCED.finditer(text)
    ]


def shape(text: str) -> str:
    """The text without what differs from run to run: ids, numbers, widths of columns."""
    for pattern, name in _VARYING:
        text = pattern.sub(name, text)
    return text.strip()


@dataclass
class Runner:
    """Runs the blocks of one page in their order, in the environment of this process.

    Args:
        directory: where the page's files go; the working directory of this process.
        exact: compare what Python prints character by character, and not by its shape.
        instead: commands that would take too long, and what is run in their place.
    """

    page: Path
    directory: Path
    exact: bool = False
    instead: Mapping[str, str] = field(default_factory=dict)
    namespace: dict[str, Any] = field(default_factory=lambda: {"__name__": "page"})
    _printed: io.StringIO = field(default_factory=io.StringIO)
    _ids: dict[str, str] = field(default_factory=dict)
    _shell: Shell | None = None

    async def run(self) -> None:
        """Run the page.

        Raises:
            AssertionError: something else was printed than the page shows, or a command failed.
        """
        try:
            for block in blocks_of(self.page):
                await self._run_block(block)
            assert self._printed.getvalue() == "", f"{self._name}: printed, but not shown"
        finally:
            if self._shell is not None:
                await self._shell.close()
            _terminate_pools(self.namespace)

    @property
    def _name(self) -> str:
        return str(self.page.relative_to(REPOSITORY))

    async def _run_block(self, block: Block) -> None:
        if block.file is not None:
            (self.directory / block.file).write_text(block.text, encoding="utf-8")
            return
        match block.language:
            case "python":
                await self._run_python(block)
            case "text":
                self._compare_printed(block)
            case "console":
                await self._run_commands(block)

    async def _run_python(self, block: Block) -> None:
        # The empty lines make the numbers in a traceback those of the page.
        source = "\n" * (block.line - 1) + block.text
        code = compile(source, str(self.page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        with contextlib.redirect_stdout(self._printed):
            waiting = eval(code, self.namespace)
            if inspect.isawaitable(waiting):
                await waiting

    def _compare_printed(self, block: Block) -> None:
        printed = self._printed.getvalue()
        self._printed.seek(0)
        self._printed.truncate()
        if self.exact:
            assert printed == block.text, f"{self._name}:{block.line}"
        else:
            self._compare(printed, block.text, f"{self._name}:{block.line}")

    async def _run_commands(self, block: Block) -> None:
        if self._shell is None:
            self._shell = await Shell.open(self.directory)
        commands = list(commands_of(block))
        for number, (command, shown) in enumerate(commands):
            where = f"{self._name}:{block.line}: {command}"
            ours = _ID.sub(
                lambda found: self._ids.get(found[0], found[0]), self.instead.get(command, command)
            )
            code, printed = await self._run_command(ours, self._shell)
            following = commands[number + 1][0] if number + 1 < len(commands) else ""
            if code != 0:
                assert following == "echo $?", f"{where} failed with {code}:\n{printed}"
            if shown:
                self._compare(printed, shown, where)

    async def _run_command(self, command: str, shell: Shell) -> tuple[int, str]:
        """In a process of its own, or here: an interpreter's start takes longer than most verbs."""
        if _PLAIN.fullmatch(command):
            words = shlex.split(command)[1:]
            done = await asyncio.to_thread(CliRunner().invoke, app, words)
            if done.exception is not None and not isinstance(done.exception, SystemExit):
                raise done.exception
            shell.last = done.exit_code
            return done.exit_code, done.output
        return await shell.run(command)

    def _compare(self, printed: str, shown: str, where: str) -> None:
        for theirs, ours in compare(printed, shown, where):
            for name, value in zip(_ID.findall(theirs), _ID.findall(ours), strict=True):
                known = self._ids.setdefault(name, value)
                assert known == value, f"{where}\n{name} is {known}, but here it is {value}"


def commands_of(block: Block) -> Iterator[tuple[str, str]]:
    """The commands of a console block, each with what the page shows below it."""
    command: list[str] = []
    shown: list[str] = []
    for line in block.text.splitlines():
        if line.startswith("$ "):
            if command:
                yield "\n".join(command), "\n".join(shown)
            command, shown = [line[2:]], []
        elif line.startswith("> ") and not shown:
            command.append(line[2:])
        else:
            shown.append(line)
    if command:
        yield "\n".join(command), "\n".join(shown)


def compare(printed: str, shown: str, where: str) -> list[tuple[str, str]]:
    """Assert that the lines are alike up to what differs from run to run.

    Returns:
        Each line that is shown, with the one that was printed.
    """
    expected, actual = _lasting(shown), _lasting(printed)
    for theirs, ours in zip_longest(expected, actual, fillvalue="(nothing more)"):
        if shape(theirs) != shape(ours):
            raise AssertionError(f"{where}\nshown:   {theirs}\nprinted: {ours}\n\n{printed}")
    return list(zip(expected, actual, strict=True))


def _lasting(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip() and not _PROGRESS.match(line)]


class Shell:
    """One shell session; variables and jobs of one command are there for the next."""

    # Nothing that a command prints holds it.
    _MARK = "\x1e"

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.last = 0

    @classmethod
    async def open(cls, directory: Path) -> Self:
        """Start a shell in a process group of its own."""
        process = await asyncio.create_subprocess_exec(
            "sh",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd=directory,
            start_new_session=True,
        )
        return cls(process)

    async def run(self, command: str) -> tuple[int, str]:
        """Run one command; its exit code, and what it printed on both outputs."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        # The newline ends a here-document; standard input is the session's own.
        script = f"(exit {self.last})\n{{ {command}\n}} </dev/null\nprintf '\\036%s\\n' $?\n"
        self._process.stdin.write(script.encode())
        async with asyncio.timeout(PATIENCE):
            await self._process.stdin.drain()
            printed = (await self._process.stdout.readuntil(self._MARK.encode())).decode()
            self.last = int(await self._process.stdout.readline())
        return self.last, printed.removesuffix(self._MARK)

    async def close(self) -> None:
        """End the session and every job that it left."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGTERM)
        assert self._process.stdin is not None
        self._process.stdin.close()
        async with asyncio.timeout(PATIENCE):
            await self._process.communicate()


def _terminate_pools(namespace: Mapping[str, Any]) -> None:
    """Close what a page has no reason to: its pools, also those inside its stores."""
    for value in namespace.values():
        for pool in (value, getattr(value, "pool", value)):
            if type(pool).__module__ == "asyncpg.pool" and hasattr(pool, "terminate"):
                pool.terminate()
