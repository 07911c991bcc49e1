"""What a variant is: a few exact replacements, and the tests that have to fail for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

#: Tests of the Rust crate are named by this and the path that ``cargo test`` prints.
CARGO = "cargo:"


class PatchError(Exception):
    """A replacement does not fit the code any more: the code has changed, the variant has to."""


@dataclass(frozen=True, slots=True)
class Edit:
    """Replaces text that occurs exactly once in a file.

    Attributes:
        path: of the file, from the root of the repository.
    """

    path: str
    old: str
    new: str

    def apply(self, root: Path) -> None:
        """Change the file below ``root``.

        Raises:
            PatchError: the text is not there, or there more than once.
        """
        file = root / self.path
        text = file.read_text()
        found = text.count(self.old)
        if found != 1:
            raise PatchError(f"{self.path}: found {found} times: {self.old!r}")
        file.write_text(text.replace(self.old, self.new))


@dataclass(frozen=True, slots=True)
class Variant:
    """One broken rule.

    Attributes:
        breaks: what is wrong with it, as a clause.
        tests: node ids of pytest, or names of tests of the Rust crate behind ``cargo:``.
    """

    name: str
    breaks: str
    edits: tuple[Edit, ...]
    tests: tuple[str, ...]

    @property
    def is_rust(self) -> bool:
        """Whether something has to be compiled for it."""
        return any(edit.path.startswith("rust/") for edit in self.edits)
