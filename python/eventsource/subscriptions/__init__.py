"""Subscriptions: checkpoints keyed by subscription and store, and a runner over ``read_all``."""

from eventsource.subscriptions.checkpoints import (
    Checkpoint,
    CheckpointRepository,
    InMemoryCheckpointRepository,
    PostgreSQLCheckpointRepository,
)
from eventsource.subscriptions.runner import Subscription

__all__ = [
    "Checkpoint",
    "CheckpointRepository",
    "InMemoryCheckpointRepository",
    "PostgreSQLCheckpointRepository",
    "Subscription",
]
