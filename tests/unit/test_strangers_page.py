"""The page about databases of other people names every finding, and set-ups that exist."""

from __future__ import annotations

import re
from pathlib import Path

from tests.strangers.moved import MOVED
from tests.strangers.refused import REFUSED
from tests.strangers.test_changes_on_the_way import DECIDING, LOOKED_AT
from tests.support import REPOSITORY
from tests.support.reference_tables import code_in, rows_of, sections_of

PAGE = REPOSITORY / "docs" / "explanation" / "strangers.md"

#: A finding begins with its name; those of a type have theirs in a tuple.
_KIND = re.compile(
    r'(?:Finding|warning)\(\s*"([a-z-]+)"|(?<!: )\(?"([a-z]+(?:-[a-z]+)+)",\s*\n?\s*f?"'
)


def kinds_in(folder: Path) -> set[str]:
    found: set[str] = set()
    for file in sorted(folder.rglob("*.py")):
        for match in _KIND.finditer(file.read_text()):
            found.add(match[1] or match[2])
    return found


def test_every_finding_has_its_line() -> None:
    code = kinds_in(REPOSITORY / "python/eventsource/catalog")
    code |= kinds_in(REPOSITORY / "python/eventsource/migration/preflight")
    documented = {code_in(row[0])[0] for row in rows_of(sections_of(PAGE)["Findings"])}
    assert {"check-constraint", "exclusion-constraint"} < documented
    assert code - {"check-constraint", "exclusion-constraint"} <= documented
    assert documented - code <= {"check-constraint", "exclusion-constraint"}


def test_every_set_up_and_test_that_it_names_exists() -> None:
    known = {each.name for each in (*REFUSED, *MOVED)}
    known |= {each.name for each in (*DECIDING, *LOOKED_AT)}
    for file in (REPOSITORY / "tests").rglob("*.py"):
        known |= set(re.findall(r"^ *(?:async )?def (test_\w+)", file.read_text(), re.MULTILINE))
    for row in rows_of(sections_of(PAGE)["Faults and their tests"]):
        named = code_in(row[2])
        assert named, row
        assert set(named) <= known, set(named) - known


def test_every_refusal_of_the_suite_is_on_the_page() -> None:
    documented = {code_in(row[0])[0] for row in rows_of(sections_of(PAGE)["Findings"])}
    assert {each.refused for each in REFUSED} <= documented


def test_the_set_ups_have_names_of_their_own_and_are_many() -> None:
    names = [each.name for each in (*REFUSED, *MOVED)]
    assert len(names) == len(set(names))
    assert len(names) >= 60
