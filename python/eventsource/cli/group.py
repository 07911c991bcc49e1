"""The group of verbs: each is loaded when it is used, and usage errors can be JSON."""

from __future__ import annotations

import contextlib
import importlib
import re
import shutil
import sys
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from typing import Any, ClassVar

import typer
from typer.core import TyperCommand, TyperGroup

#: Shared options with a value, and those without one.
WITH_VALUE = ("--config", "--set", "--operator", "--log-format")
FLAGS = ("--json", "--verbose", "-v", "-vv", "--quiet", "-q")

#: What typer raises for a wrong option or argument, by whichever name it has there.
_UsageError: Any = typer.BadParameter.__bases__[0]


class SharedOptionsGroup(TyperGroup):
    """Lets the shared options stand anywhere: `status --json` is `--json status`.

    Attributes:
        places: for each verb the module and the function, or the group, that it is.
        in_short: for each verb the first sentence of its help.
    """

    places: ClassVar[Mapping[str, str]] = {}
    in_short: ClassVar[Mapping[str, str]] = {}

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = Verbs({**self.places, **(self.commands or {})})

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, shared_first(args))

    def make_context(self, *args: Any, **extra: Any) -> Any:
        with _mistakes_that_fit():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: Any) -> Any:
        with _mistakes_that_fit():
            return super().invoke(ctx)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with self._as_listed():
            super().format_commands(ctx, formatter)

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        with self._as_listed():
            return super().shell_complete(ctx, incomplete)

    @contextlib.contextmanager
    def _as_listed(self) -> Iterator[None]:
        """Within the block a verb is its name and a sentence: to list them loads none."""
        whole = self.commands
        self.commands = {
            name: Verb(name, short_help=sentence) for name, sentence in self.in_short.items()
        }
        try:
            yield
        finally:
            self.commands = whole

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        given = list(sys.argv[1:] if args is None else args)
        named = {"prog_name": prog_name, "complete_var": complete_var, **extra}
        if not standalone_mode or "--json" not in given:
            return super().main(given, standalone_mode=standalone_mode, **named)
        try:
            code = super().main(given, standalone_mode=False, **named)
        except _UsageError as error:
            code = error.exit_code
            _print_as_json(error)
        sys.exit(code or 0)


class Verbs(MutableMapping[str, Any]):
    """Commands by name; a text ``module:attribute`` becomes one when it is asked for."""

    def __init__(self, places: Mapping[str, Any]) -> None:
        self._known = dict(places)

    def __getitem__(self, name: str) -> Any:
        found = self._known[name]
        if isinstance(found, str):
            found = self._known[name] = _loaded(name, found)
        return found

    def __setitem__(self, name: str, command: Any) -> None:
        self._known[name] = command

    def __delitem__(self, name: str) -> None:
        del self._known[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)


class Verb(TyperCommand):
    """A command whose usage line names arguments as its section of the reference does.

    Where a migration is named by --tenant, the first argument is not its id: what stands there is
    the one that follows it, such as the rate of `throttle`.
    """

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        pieces = super().collect_usage_pieces(ctx)
        pieces = [re.sub(r"^\{(.*)\}((?:\.\.\.)?)$", r"\1\2", piece) for piece in pieces]
        return [re.sub(r"^\[\[(.*)\]\]((?:\.\.\.)?)$", r"[\1]\2", piece) for piece in pieces]

    def get_short_help_str(self, limit: int = 45) -> str:
        # A list of verbs wraps what is long: a sentence that is cut says nothing.
        return super().get_short_help_str(1000)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        arguments = [each for each in self.params if each.param_type_name == "argument"]
        if len(arguments) < 2 or arguments[0].name != "migration" or not _names_a_tenant(args):
            return super().parse_args(ctx, args)
        all_of_them, self.params = self.params, [p for p in self.params if p.name != "migration"]
        try:
            return super().parse_args(ctx, args)
        finally:
            self.params = all_of_them


def _names_a_tenant(args: Sequence[str]) -> bool:
    options = args[: args.index("--")] if "--" in args else args
    return any(each == "--tenant" or each.startswith("--tenant=") for each in options)


def _loaded(name: str, place: str) -> Any:
    module, _, attribute = place.partition(":")
    found = getattr(importlib.import_module(module), attribute)
    if not isinstance(found, typer.Typer):
        single = typer.Typer()
        single.command(name, cls=Verb)(found)
        found = single
    # The application installs the completion of all of them.
    found._add_completion = False
    command = typer.main.get_command(found)
    command.name = name
    _with_plain_help(command, name)
    return command


def _with_plain_help(command: Any, path: str) -> None:
    """Text without frames, with examples and the shared options at its end; groups as well."""
    # Loaded here: a command that is run does not need it.
    from eventsource.cli.examples import epilog_of

    command.rich_markup_mode = None
    command.epilog = epilog_of(path)
    for name, each in getattr(command, "commands", {}).items():
        _with_plain_help(each, f"{path} {name}")


def shared_first(args: Sequence[str]) -> list[str]:
    """The arguments with the shared options before the verb, where the group looks for them."""
    shared: list[str] = []
    others: list[str] = []
    following = iter(args)
    for arg in following:
        if arg == "--":
            others += [arg, *following]
        elif arg in FLAGS or arg.startswith(tuple(f"{name}=" for name in WITH_VALUE)):
            shared.append(arg)
        elif arg in WITH_VALUE:
            shared.append(arg)
            shared.extend(value for value in [next(following, None)] if value is not None)
        else:
            others.append(arg)
    return shared + others


@contextlib.contextmanager
def _mistakes_that_fit() -> Iterator[None]:
    """A usage error that leaves the block is said by nobody in between, and at a terminal broken
    between words."""
    try:
        yield
    except _UsageError as error:
        error.message = error.message.replace("Value error, ", "")
        if sys.stderr is not None and sys.stderr.isatty():
            from eventsource.cli.fitting import folded

            begin = "Error: "
            width = shutil.get_terminal_size().columns
            said = folded(begin + error.format_message(), width).removeprefix(begin)
            error.format_message = lambda: said
        raise


def _print_as_json(error: Any) -> None:
    # Loaded here: a command line that is right does not need it so early.
    from eventsource.cli.output import to_json

    where = error.ctx.command_path if error.ctx is not None else "eventsource-migrate"
    document = {
        "code": "usage",
        "message": " ".join(error.format_message().split()),
        "exit_code": error.exit_code,
        "next": [{"what": "look", "command": f"{where} --help"}],
    }
    print(to_json({"error": document}), flush=True)
