"""Following a way back, and sessions that are used again, with one of their rules broken."""

from __future__ import annotations

from tests.sabotage.variant import Edit, Variant

_FOLLOWER = "python/eventsource/migration/driver/follower.py"
_FOLLOWING = "tests/integration/afterwards/test_following.py"

_KEPT = "python/eventsource/migration/connections/kept.py"
_SESSIONS = "tests/integration/driver/test_kept_sessions.py"

VARIANTS = (
    Variant(
        "a-hidden-tenant-joins",
        "a feed goes on with a tenant of which the store shows nothing yet",
        (
            Edit(
                "python/eventsource/migration/routing/following.py",
                "        if await self._routes.is_hidden(reader.store_id, tenant_id):\n",
                "        if False:\n",
            ),
        ),
        (
            "tests/integration/subscriptions/test_following.py::"
            "test_a_tenant_whose_store_is_closed_again_does_not_join_the_feed",
        ),
    ),
    Variant(
        "kept-session-is-deaf",
        "the next user of a session hears nothing of what the last one listened to as well",
        (
            Edit(
                _KEPT,
                "            await connection.reset()\n",
                "            await connection.execute(connection.get_reset_query())\n",
            ),
        ),
        (f"{_SESSIONS}::test_its_next_user_hears_what_the_last_one_listened_to_as_well",),
    ),
    Variant(
        "sleeping-way-back-guards",
        "the tenant's writers meet the fence of a way back while an abort removes it",
        (
            Edit(
                "python/eventsource/stores/sql/fences.sql",
                "or f.state = 'standby' and f.generation <> -1\n",
                "or f.state = 'standby'\n",
            ),
        ),
        (
            "tests/integration/afterwards/test_made_ready.py::"
            "test_an_abort_removes_it_without_an_error_for_the_tenants_writers",
        ),
    ),
    Variant(
        "trial-leaves-its-transaction",
        "a driver goes on in the transaction of a trial that was given up",
        (
            Edit(
                "python/eventsource/migration/steps/way_back.py",
                "        await _end_what_is_open(connections)\n",
                "",
            ),
        ),
        (
            "tests/integration/afterwards/test_made_ready.py::"
            "test_a_trial_that_takes_too_long_costs_the_move_nothing",
        ),
    ),
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
