"""Waiting: who takes up what is left, who is held up, and who is allowed to say so."""

from __future__ import annotations

from tests.sabotage.variant import Edit, Variant

_BACKGROUND = "python/eventsource/migration/background.py"
_LEASE = "python/eventsource/migration/driver/lease.py"
_LEASES = "tests/integration/driver/test_leases.py"

VARIANTS = (
    Variant(
        "nobody-stands-by",
        "a migration that was left to a dead driver is driven by nobody",
        (Edit(_BACKGROUND, "        while self._stands_by_for:\n", "        while False:\n"),),
        (f"{_LEASES}::test_what_a_call_left_to_a_dead_driver_is_taken_up",),
    ),
    Variant(
        "lease-believed-without-end",
        "a lease written by a clock that was ahead keeps everybody away",
        (
            Edit(
                _LEASE,
                "        return now - since > migration.config.lease_seconds\n",
                "        return False\n",
            ),
        ),
        (f"{_LEASES}::test_a_lease_is_believed_for_its_length_whatever_the_clock_says",),
    ),
    Variant(
        "renewed-lease-not-believed",
        "a lease that is renewed is taken all the same once it is old",
        (
            Edit(
                _LEASE,
                "        if known != expiry:\n",
                "        if known is None:\n",
            ),
        ),
        (f"{_LEASES}::test_a_lease_that_is_renewed_is_left_alone",),
    ),
)
