"""The strangers live in the world of the integration tests."""

from __future__ import annotations

from tests.integration.conftest import world

__all__ = ["world"]
