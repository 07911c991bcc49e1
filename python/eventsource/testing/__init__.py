"""Shipped with the product: servers, writers and an independent checker to test a migration with.

`Cluster` starts throw-away PostgreSQL servers.
"""

from eventsource.testing.binaries import PostgresNotFoundError
from eventsource.testing.clusters import Cluster, ClusterError

__all__ = ["Cluster", "ClusterError", "PostgresNotFoundError"]
