"""Comparing a tenant's events in two stores."""

from __future__ import annotations

from eventsource.migration.consistency.verifier import ConsistencyVerifier, VerificationLevel
from eventsource.migration.models import VerificationReport

__all__ = ["ConsistencyVerifier", "VerificationLevel", "VerificationReport"]
