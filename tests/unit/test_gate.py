"""What continuous integration leaves out exists, and something of each file stays."""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest

from tests.support.gate import COLLECTED, PATTERNS, is_left_out


def test_every_pattern_names_a_test_and_leaves_another(request: pytest.FixtureRequest) -> None:
    """Of those files that were collected: a run of all tests looks at all of them."""
    collected = request.config.stash[COLLECTED]
    files = {test.partition("::")[0] for test in collected}
    for pattern in PATTERNS:
        file = pattern.partition("::")[0]
        if file in files:
            assert any(fnmatchcase(test, pattern) for test in collected), pattern
            assert any(
                run and test.startswith(f"{file}::") and not is_left_out(test)
                for test, run in collected.items()
            ), file
