"""Comparing a tenant's events in two stores."""

from __future__ import annotations

from eventsource.migration.consistency.verifier import (
    ConsistencyVerifier,
    VerificationLevel,
    VerificationReport,
)

__all__ = ["ConsistencyVerifier", "VerificationLevel", "VerificationReport"]
