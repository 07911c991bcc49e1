"""The layouts that come with the package."""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping
from functools import cache
from importlib import resources

from eventsource.migration.layouts.declaration import Layout
from eventsource.migration.layouts.reading import layout_of

#: The layout of this package's own stores.
OWN = "eventsource"


@cache
def presets() -> Mapping[str, Layout]:
    """All of them by name, in the order of their names."""
    found = {}
    for file in resources.files("eventsource.migration.layouts").joinpath("presets").iterdir():
        if file.name.endswith(".toml"):
            name = file.name.removesuffix(".toml")
            found[name] = layout_of(name, tomllib.loads(file.read_text(encoding="utf-8")))
    return dict(sorted(found.items()))


def recognised(tables: Mapping[str, Collection[str]]) -> list[Layout]:
    """The layouts whose tables are among these, each with its columns; the fullest match first."""
    found = []
    for layout in presets().values():
        columns = tables.get(layout.events)
        wanted = set(layout.recognised_by)
        if columns is not None and wanted and wanted <= set(columns):
            found.append(layout)
    return sorted(found, key=lambda each: -len(each.recognised_by))
