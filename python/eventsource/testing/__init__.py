"""Shipped with the product: servers, writers and an independent checker to test a migration with.

`Cluster` starts throw-away PostgreSQL servers, `WriterProcess` runs an application that appends and
records every attempt, `check_moved`, `check_returned` and `check_unmoved` read the servers with
plain SQL and say which promise was broken. `eventsource.testing.proxy` breaks the network between
them.
"""

from eventsource.testing.binaries import PostgresNotFoundError
from eventsource.testing.checker import (
    CheckReport,
    check_moved,
    check_returned,
    check_unmoved,
    read_rows,
)
from eventsource.testing.clusters import Cluster, ClusterError
from eventsource.testing.processes import WriterProcess
from eventsource.testing.records import Attempt, Outcome, longest_append
from eventsource.testing.writer_config import StoreAddress, WriterConfig

__all__ = [
    "Attempt",
    "CheckReport",
    "Cluster",
    "ClusterError",
    "Outcome",
    "PostgresNotFoundError",
    "StoreAddress",
    "WriterConfig",
    "WriterProcess",
    "check_moved",
    "check_returned",
    "check_unmoved",
    "longest_append",
    "read_rows",
]
