"""When a return goes for its fence although its tenant writes without a pause."""

from __future__ import annotations

from eventsource.migration.driver.cutting_over import SHRINK_SECONDS, short_pass


def test_at_first_only_a_short_pass_is_followed_by_the_fence() -> None:
    assert short_pass(5.0, 0.0) == 0.3
    assert short_pass(1.0, 0.0) == 0.125


def test_a_tenant_that_writes_on_and_on_is_not_kept_from_returning() -> None:
    limits = [short_pass(2.0, seconds) for seconds in range(int(SHRINK_SECONDS))]
    assert limits == sorted(limits)
    assert limits[10] == 0.5
    # Never more than a half: the section has to fit, with the wait for appends in flight.
    assert max(limits) == 1.0
