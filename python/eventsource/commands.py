"""Commands of ours as a shell takes them, for what says how to go on."""

from __future__ import annotations

import json
import re
import shlex

COMMAND = "eventsource-migrate"

#: Before its verb, and not within another word.
_BEFORE_A_VERB = re.compile(rf"(?<![\w/-]){COMMAND} (?=[a-z])")


def command(verb: str, *words: object, options: tuple[object, ...] = ()) -> str:
    """A command that runs when it is copied: tenants, stores and waves may have any name.

    Args:
        words: what stands by itself, such as a tenant or an id.
        options: with their values, in their order.
    """
    named, given = [str(word) for word in words], [str(option) for option in options]
    if any(word.startswith("-") for word in named):
        # It would be taken for an option.
        rest = [*given, "--", *named]
    else:
        rest = [*named, *given]
    return " ".join([COMMAND, verb, *map(shlex.quote, rest)])


def with_config(text: str, path: str, *, as_json: bool = False) -> str:
    """The text with each command naming this configuration; ``as_json``, it is a JSON document."""
    named = f"{COMMAND} --config {shlex.quote(path)} "
    if as_json:
        named = json.dumps(named, ensure_ascii=False)[1:-1]
    return _BEFORE_A_VERB.sub(lambda _: named, text)
