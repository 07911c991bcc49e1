"""The language of CONTRIBUTING: words that are not used, and words that the glossary explains."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from eventsource.migration import MigrationState, TenantMigrationState

REPOSITORY = Path(__file__).parents[2]
GLOSSARY = REPOSITORY / "docs/reference/glossary.md"

#: What is read: files, and folders with all that is in them.
ROOTS = (
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "benchmarks/README.md",
    "docs",
    "python/eventsource",
    "rust",
)
#: Of these, what still waits for its language.
NOT_YET: tuple[str, ...] = ()

SUFFIXES = frozenset({".md", ".py", ".pyi", ".rs", ".sql"})

#: Pages whose headings and emphasised words are terms of the domain.
TERM_PAGES = (
    "docs/explanation/how-a-tenant-moves.md",
    "docs/reference/states.md",
    "docs/reference/database-objects.md",
)
#: Their headings that everybody knows.
PLAIN = frozenset(
    {
        "afterwards",
        "database",
        "hardened databases",
        "row-level security",
        "idea",
        "locks",
        "privileges",
        "triggers",
    }
) | {"when somebody dies"}

# A phrase goes on in the next line of a comment too.
_GAP = r"(?:\s|#:?|//[/!]?|--)+"
_SPAN = re.compile(r"`([^`]+)`")
_TABLE = re.compile(r"^\|.*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Rule:
    """A row of the table: the words, and the phrases in which they are right."""

    words: re.Pattern[str]
    allowed: re.Pattern[str] | None

    def offences(self, text: str) -> Iterator[tuple[int, str]]:
        """Line and word of each offence."""
        if self.allowed is not None:
            text = self.allowed.sub(lambda found: _blank(found[0]), text)
        for found in self.words.finditer(text):
            yield text.count("\n", 0, found.start()) + 1, found[0]


def _blank(text: str) -> str:
    return re.sub(r"\S", " ", text)


def _phrases(cell: str) -> re.Pattern[str] | None:
    phrases = [_GAP.join(map(re.escape, phrase.split())) for phrase in _SPAN.findall(cell)]
    return re.compile(rf"\b(?:{'|'.join(phrases)})\b", re.IGNORECASE) if phrases else None


def rules() -> list[Rule]:
    """The table under "Language" in CONTRIBUTING."""
    text = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = text.partition("\n### Language\n")[2].partition("\n## ")[0]
    found = []
    for row in _TABLE.findall(section)[2:]:
        words, _, allowed = row.strip().strip("|").split("|")
        pattern = _phrases(words)
        assert pattern is not None, f"CONTRIBUTING.md: no word in backquotes: {row}"
        found.append(Rule(pattern, _phrases(allowed)))
    return found


def files() -> Iterator[Path]:
    waiting = [REPOSITORY / name for name in NOT_YET]
    for root in ROOTS:
        path = REPOSITORY / root
        for file in [path] if path.is_file() else sorted(path.rglob("*")):
            if file.suffix in SUFFIXES and not any(file.is_relative_to(each) for each in waiting):
                yield file


def prose_of(file: Path) -> str:
    text = file.read_text(encoding="utf-8")
    if file.name != "CONTRIBUTING.md":
        return text
    return _TABLE.sub(lambda found: _blank(found[0]), text)


def terms() -> list[tuple[str, ...]]:
    """The words of each entry of the glossary, in lower case."""
    words = GLOSSARY.read_text(encoding="utf-8").partition("\n## Words\n")[2].partition("\n## ")[0]
    entries = re.findall(r"^- (\*\*.*?\*\*): ", words, re.MULTILINE)
    return [tuple(re.findall(r"\*\*(.*?)\*\*", entry)) for entry in entries]


def known() -> set[str]:
    return {word for entry in terms() for word in entry}


def terms_of(page: Path) -> Iterator[str]:
    """What the headings of a page name, and what its text emphasises."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    for heading in re.findall(r"^##+ (.*)$", text, re.MULTILINE):
        bare = re.sub(r"^(?:\d+\. |Of |In )?(?:(?:the|an?) )?", "", heading, flags=re.IGNORECASE)
        for part in re.split(r" and | of (?:the |an? )?|'s ", bare):
            yield part.lower()
    yield from re.findall(r"(?<!\*)\*([a-z][a-z ]+)\*(?!\*)", text)


def test_no_text_has_a_word_that_is_not_used() -> None:
    every = rules()
    found = [
        f"{file.relative_to(REPOSITORY)}:{line}: {word}"
        for file in files()
        for rule in every
        for line, word in rule.offences(prose_of(file))
    ]
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("The driver is told.", [1]),
        ("it\nstays Alike", [2]),
        ("# it waits for\n    # ever", [1]),
        ("//! for\n//! ever", [1]),
        ("Whoever asks, told or not.", [1, 1]),
        ("the page behind the commit", [1]),
        ("nothing is left\nbehind", []),
        ("`test_a_driver_frozen_behind_the_decision` foretold", []),
    ],
)
def test_an_offence_is_found_and_nothing_else(text: str, lines: list[int]) -> None:
    found = [line for rule in rules() for line, _ in rule.offences(text)]
    assert sorted(found) == lines


def test_what_is_read_is_there() -> None:
    assert len(rules()) > 5
    for name in (*ROOTS, *NOT_YET):
        assert (REPOSITORY / name).exists(), name
    names = {str(file.relative_to(REPOSITORY)) for file in files()}
    assert {"README.md", "docs/README.md", "python/eventsource/cli/run.py"} <= names


def test_the_glossary_is_short_and_in_order() -> None:
    first = [entry[0] for entry in terms()]
    assert 20 <= len(first) <= 40
    assert first == sorted(first)
    assert len(known()) == sum(map(len, terms())), "a word is there twice"


@pytest.mark.parametrize("page", TERM_PAGES)
def test_every_term_of_a_page_is_in_the_glossary(page: str) -> None:
    used = list(terms_of(REPOSITORY / page))
    assert used
    assert {word for word in used if word not in PLAIN} <= known()


@pytest.mark.parametrize("states", [MigrationState, TenantMigrationState])
def test_every_state_is_in_the_glossary(
    states: type[MigrationState] | type[TenantMigrationState],
) -> None:
    table = GLOSSARY.read_text(encoding="utf-8").partition("\n## States\n")[2]
    whose = "migration" if states is MigrationState else "route"
    listed = {
        row[0]: row[1].split(", ") for row in re.findall(r"^\| `(\w+)` \| ([^|]+) \|", table, re.M)
    }
    assert {name for name, of in listed.items() if whose in of} == set(states)
