"""Following a way back with one of its rules broken."""

from __future__ import annotations

from tests.sabotage.variant import Edit, Variant

_FOLLOWER = "python/eventsource/migration/driver/follower.py"
_FOLLOWING = "tests/integration/afterwards/test_following.py"

VARIANTS = (
    Variant(
        "follows-what-is-closed",
        "who follows a way back goes on although it was closed, or somebody returns by it",
        (
            Edit(
                _FOLLOWER,
                "                # Somebody returns, closes or repairs it.\n"
                "                return\n",
                "                pass\n",
            ),
        ),
        (
            f"{_FOLLOWING}::test_a_tenant_returns_while_it_is_followed",
            f"{_FOLLOWING}::test_one_that_is_closed_is_not_followed_on",
        ),
    ),
    Variant(
        "stays-with-one-of-many",
        "other ways back wait while a busy one is followed",
        (Edit(_FOLLOWER, "stay if len(ours) == 1 else 0.0", "stay"),),
        (f"{_FOLLOWING}::test_of_two_that_are_due_none_is_stayed_with",),
    ),
    Variant(
        "stays-for-ever",
        "who repairs a way back waits for as long as its tenant writes",
        (Edit(_FOLLOWER, "if now - began >= stay or now", "if now"),),
        (f"{_FOLLOWING}::test_a_busy_one_is_let_go_of_when_its_time_is_over",),
    ),
)  # fmt: skip
