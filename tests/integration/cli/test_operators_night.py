"""One night of an operator, at a small terminal and at a large one.

With `NIGHT=DIRECTORY` the transcripts stay there, and pictures of them where there is a browser.
The pages show what they say.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from eventsource.testing import Cluster
from tests.support import REPOSITORY
from tests.support.command_line import CommandLine
from tests.support.night import Night, keep, play

PAGE = REPOSITORY / "docs/howto/understand-the-output.md"

_UUID = re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b")
#: What is left of an id, or of a session's number, where a line was cut or broken in it.
_PART_OF_AN_ID = re.compile(r"\b[0-9a-f]{8}-[0-9a-f-]{0,27}(?:…|$)|\bpid(?: \d*…|$)")


@pytest.mark.thorough
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("rows", "columns"), [(24, 80), (50, 200)], ids=["80x24", "200x50"])
def test_everything_fits_the_terminal_and_no_id_is_cut(
    cli: CommandLine, target_cluster: Cluster, tmp_path: Path, rows: int, columns: int
) -> None:
    night = play(cli, target_cluster, rows, columns)
    keep(night, Path(os.environ.get("NIGHT", tmp_path)))
    for scene in night.scenes:
        assert scene.screen.wrapped == [], scene.text
        for line in scene.screen.lines():
            found = _PART_OF_AN_ID.search(_UUID.sub("ID", line))
            assert found is None, f"{scene.text}\n{found}"
            assert "…" not in line or scene.command.split()[1] == "audit", scene.text
    _what_has_to_be_said(night, cli)


def _what_has_to_be_said(night: Night, cli: CommandLine) -> None:
    """At every size: which migration, which store is down, who is in the way, what comes next."""
    id_ = str(cli.migration()["id"])
    first = cli.sql("control", "select id from tenant_migrations order by created_at")[0][0]

    def said(verb: str, moment: str = "at its end") -> str:
        return " ".join(night.scene(verb, moment).text.split())

    assert "store 'dedicated': " in said("run", "a store is down")
    assert "store 'dedicated': " in said("status")
    assert str(first) in said("status")
    assert "WARNING" not in said("run") + said("cutover", "timed out"), (
        "that it waits is said twice"
    )
    for moment in ("waiting", "timed out"):
        assert "(nightly-report, idle in transaction" in said("cutover", moment)
    pid = re.findall(r"pid (\d+)", said("cutover", "timed out"))[0]
    assert f"select pg_terminate_backend({pid})" in said("cutover", "timed out")
    assert f"eventsource-migrate abort {first}" in said("cutover", "timed out")
    assert said("return").endswith(f"eventsource-migrate subscriptions plan {id_}")
    assert id_ != str(first)
    table = night.scenes[-2].screen.lines()
    assert len(table) == 3, table
    assert table[1].split()[0] == (id_ if night.columns == 200 else id_[:8])


def test_the_page_shows_terminals_of_these_sizes() -> None:
    narrow, wide = PAGE.read_text().split("## In a wide terminal")
    for text, columns in ((narrow, 80), (wide, 200)):
        shown = "\n".join(text.split("```")[1::2]).splitlines()
        assert len(shown) > 5
        assert (
            max(len(line) for line in shown if line.lstrip("$ ")[:19] != "eventsource-migrate")
            <= columns
        )
        assert not [line for line in shown if _PART_OF_AN_ID.search(_UUID.sub("ID", line))]
    assert max(map(len, wide.splitlines())) > 120
