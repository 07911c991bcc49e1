"""Two servers for the whole session; their databases are of `tests.support.databases`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from eventsource.testing import Cluster

if TYPE_CHECKING:
    from tests.support.worlds.emptying import Emptied

pytest_plugins = ["tests.support.side_by_side", "tests.support.databases", "tests.support.gate"]

# A failed assertion there shows what was compared, as one in a test does.
pytest.register_assert_rewrite("tests.support")


#: A test logs in some 25 times, and half of what that costs is hashing the password 4096 times.
QUICK_LOG_IN = {"scram_iterations": 1}


@pytest.fixture(scope="session")
def source_cluster() -> Iterator[Cluster]:
    """PostgreSQL 16: the shared server, which also holds the control database."""
    # With fsync a test that empties tables waits for the disk, and none of them loses power.
    with Cluster.start(16, QUICK_LOG_IN, fsync=False) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def target_cluster() -> Iterator[Cluster]:
    """PostgreSQL 18: the dedicated server."""
    with Cluster.start(18, QUICK_LOG_IN, fsync=False) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def world_databases() -> dict[str, Emptied]:
    """Those of the integration tests and the strangers: made by the first test that has
    a world, and emptied by each for itself.
    """
    return {}
