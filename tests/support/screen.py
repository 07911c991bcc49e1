"""What a terminal shows of what a program has written, as text and as a page for a browser."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass, field

#: A key of the program's: move the cursor, erase, choose a colour; anything else is refused.
_SEQUENCE = re.compile(r"\x1b\[(\??[0-9;]*)([A-Za-z])")

_COLOURS = {
    30: "#4e4e4e", 31: "#c01c28", 32: "#1a7f37", 33: "#8a6100", 34: "#1c61d8", 35: "#a347ba",
    36: "#0e7c86", 37: "#9a9a9a", 90: "#8a8a8a",
}  # fmt: skip


@dataclass
class Screen:
    """Rows from the first that was written on; nothing scrolls away.

    Attributes:
        wrapped: what stood in each row that the terminal had to break by itself.
    """

    columns: int
    wrapped: list[str] = field(default_factory=list)
    _rows: list[list[tuple[str, str]]] = field(default_factory=lambda: [[]])
    _row: int = 0
    _column: int = 0
    _style: tuple[int, ...] = ()

    def feed(self, text: str) -> None:
        """What the program has written."""
        at = 0
        while at < len(text):
            if text[at] == "\x1b":
                found = _SEQUENCE.match(text, at)
                assert found is not None, f"no sequence of a terminal: {text[at : at + 12]!r}"
                self._obey(*found.groups())
                at = found.end()
                continue
            self._write(text[at])
            at += 1

    def lines(self) -> list[str]:
        """Each row as text, without the empty ones at the end."""
        lines = ["".join(char for char, _ in row).rstrip() for row in self._rows]
        while lines and not lines[-1]:
            lines.pop()
        return lines

    def as_html(self) -> str:
        """The same with its colours."""
        return "\n".join(
            "".join(
                f'<span style="{style}">{html.escape(char)}</span>' if style else html.escape(char)
                for char, style in row
            )
            for row in self._rows[: len(self.lines())]
        )

    def _write(self, char: str) -> None:
        if char == "\n":
            self._row += 1
        elif char == "\r":
            self._column = 0
        else:
            assert char.isprintable(), f"a terminal would obey {char!r}"
            if self._column == self.columns:
                self.wrapped.append("".join(each for each, _ in self._rows[self._row]))
                self._row, self._column = self._row + 1, 0
            row = self._at()
            row.extend([(" ", "")] * (self._column - len(row)))
            row[self._column : self._column + 1] = [(char, self._css())]
            self._column += 1
        self._at()

    def _at(self) -> list[tuple[str, str]]:
        while len(self._rows) <= self._row:
            self._rows.append([])
        return self._rows[self._row]

    def _obey(self, given: str, key: str) -> None:
        number = int(given) if given.isdigit() else 0
        match key:
            case "A":
                self._row = max(0, self._row - max(1, number))
            case "K":
                row = self._at()
                del row[0 if number == 2 else self._column :]
            case "m":
                for code in map(int, (given or "0").split(";")):
                    self._style = () if code == 0 else (*self._style, code)
            case "h" | "l":
                assert given == "?25", f"not the cursor: {given}{key}"
            case _:
                raise AssertionError(f"unknown to this terminal: {given}{key}")

    def _css(self) -> str:
        said = [f"color:{_COLOURS[code]}" for code in self._style if code in _COLOURS]
        return ";".join([*said, *(["font-weight:bold"] if 1 in self._style else [])])
