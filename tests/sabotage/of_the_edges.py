"""What applications see: appends, checkpoints, errors."""

from __future__ import annotations

from tests.sabotage.variant import Edit, Variant

_POSITIONS = "python/eventsource/migration/subscriptions/positions.py"
_ROUTER = "python/eventsource/migration/routing/router.py"
_ROUTES = "python/eventsource/migration/routing/route_cache.py"
_TRANSACTIONS = "python/eventsource/migration/routing/transactions.py"
_IN_TRANSACTIONS = "tests/integration/routing/test_transactions.py"
_FOLLOWING = "tests/integration/subscriptions/test_following.py"
_CONTRACT = "tests/integration/stores/test_contract.py"
_ROUTING = "tests/integration/routing/test_router.py"

VARIANTS = (
    Variant(
        "answer-of-before-the-doubt",
        "a store is believed for half a minute although its server may be another one since",
        (
            Edit(
                "python/eventsource/migration/routing/arrival.py",
                "is_sure = self._asking.get(key) is asyncio.current_task()",
                "is_sure = True",
            ),
        ),
        (
            "tests/integration/routing/test_arrivals.py::"
            "test_what_was_asked_before_a_doubt_is_not_believed_after_it[False]",
        ),
    ),
    Variant(
        "cancelled-transaction-stays-open",
        "what a driver writes after its budget is over is taken back with what was cancelled",
        (
            Edit(
                "python/eventsource/migration/connections/transactions.py",
                "        if not is_inner and not is_over and not connection.is_closed():\n",
                "        if False:\n",
            ),
        ),
        (
            "tests/integration/driver/test_transactions.py::"
            "test_what_comes_after_a_cancelled_transaction_is_committed",
        ),
    ),
    Variant(
        "uncounted-passes-for-all",
        "a copy whose tenant is not counted yet stands at 100 percent",
        (
            Edit(
                "python/eventsource/migration/steps/passes.py",
                "total = None if at.proven_snapshot is None else max(",
                "total = max(",
            ),
        ),
        (
            "tests/integration/driver/test_counts.py::"
            "test_a_large_tenant_is_counted_while_it_is_copied",
        ),
    ),
    Variant(
        "reads-stay-behind",
        "appends follow the route and reads do not",
        (
            Edit(
                _ROUTER,
                "        return home\n",
                "        return self.default_store\n",
            ),
        ),
        (f"{_ROUTING}::test_reads_follow_the_route",),
    ),
    Variant(
        "route-read-once",
        "a route that changed without a notification is never read again",
        (
            Edit(
                _ROUTES,
                "async with asyncio.timeout(due - time.monotonic()):",
                "async with asyncio.timeout(None):",
            ),
        ),
        (f"{_ROUTING}::test_a_change_that_nobody_announced_is_found_by_reading_again",),
    ),
    Variant(
        "route-not-listened-for",
        "a change of the route is found only when it is read again",
        (
            Edit(
                _ROUTES,
                "        await connection.add_listener(CHANNEL, hear)\n",
                "",
            ),
        ),
        (f"{_ROUTING}::test_a_change_is_heard_long_before_the_route_is_read_again",),
    ),
    Variant(
        "transaction-without-its-events",
        "a block whose append was refused, and that went on, is committed without it",
        (
            Edit(
                _TRANSACTIONS,
                "                if made._refusal is not None:\n                    # The block",
                "                if made._refusal is not None and not made.store_id:\n"
                "                    # The block",
            ),
        ),
        # Where nothing else was appended, the fence is asked at the end and refuses as well.
        (
            f"{_IN_TRANSACTIONS}::"
            "test_a_block_that_goes_on_after_a_refusal_stores_none_of_what_it_did",
        ),
    ),
    Variant(
        "transaction-at-an-old-home",
        "a block that appends nothing is committed where the tenant does not live any more",
        (
            Edit(
                _TRANSACTIONS,
                "                if not made._appended:\n",
                "                if not made.store_id:\n",
            ),
        ),
        (f"{_IN_TRANSACTIONS}::test_a_block_runs_again_where_the_tenant_has_moved",),
    ),
    Variant(
        "subscription-ends-with-its-server",
        "a subscription ends at the first restart of its database",
        (
            Edit(
                "python/eventsource/subscriptions/outages.py",
                "        raised, passing = error, of_a_store(error)\n",
                "        raised, passing = error, False\n",
            ),
        ),
        (
            "tests/integration/subscriptions/test_outages.py::"
            "test_run_goes_on_after_restarts_with_one_warning_and_one_line_each",
        ),
    ),
    Variant(
        "arriving-tenant-read-with-the-feed",
        "a tenant that has moved is read with the feed, which has passed what was carried",
        (
            Edit(
                "python/eventsource/migration/routing/places.py",
                "        self.joining[home].add(tenant_id)\n",
                "        self.joining[home].discard(tenant_id)\n",
            ),
        ),
        (f"{_FOLLOWING}::test_it_follows_there_and_back_under_writers",),
    ),
    Variant(
        "position-of-another-store",
        "a subscription goes on in the next store at the position that it had in the one before",
        (
            Edit(
                "python/eventsource/migration/routing/places.py",
                "                found[target] = max(found.get(target, 0), carried)\n",
                "                found[target] = max(found.get(target, 0), *found.values())\n",
            ),
        ),
        (f"{_FOLLOWING}::test_moves_that_it_did_not_see_are_followed_from_its_checkpoints",),
    ),
    Variant(
        "retry-is-a-conflict",
        "an append whose reply was lost fails when it is made again",
        (
            Edit(
                "python/eventsource/stores/repeated.py",
                "    if not found:\n        return None\n",
                "    if not found or wanted:\n        return None\n",
            ),
        ),
        (
            "tests/integration/stores/test_append.py::test_a_retry_after_a_lost_reply_is_a_success",
            f"{_ROUTING}::test_a_stale_retry_of_an_append_that_had_succeeded_is_a_success",
        ),
    ),
    Variant(
        "checkpoint-of-all-tenants-moves",
        "the checkpoint of a subscription to all tenants moves along with one of them",
        (
            Edit(
                "python/eventsource/migration/subscriptions/migrator.py",
                "save_if_absent(*key, tenant_id, over=planned.replaces)",
                "save_if_absent(*key, over=planned.replaces)",
            ),
        ),
        (
            "tests/integration/subscriptions/test_move.py::"
            "test_from_every_checkpoint_nothing_is_skipped_and_repeats_are_predicted",
        ),
    ),
    Variant(
        "checkpoint-one-too-high",
        "a translated checkpoint skips an event",
        (
            Edit(
                _POSITIONS,
                "(source_position if fence is None else min(source_position, fence)) + offset",
                "(source_position if fence is None else min(source_position, fence)) + offset + 1",
            ),
        ),
        (
            "tests/unit/test_positions.py::"
            "test_a_carried_checkpoint_delivers_exactly_what_the_largest_valid_one_delivers",
            "tests/integration/subscriptions/test_move.py::"
            "test_from_every_checkpoint_nothing_is_skipped_and_repeats_are_predicted",
        ),
    ),
    Variant(
        "checkpoint-beyond-the-fence",
        "a checkpoint that is ahead of the fence skips the tenant's first new events",
        (
            Edit(
                _POSITIONS,
                "min(source_position, fence)) + offset",
                "source_position) + offset",
            ),
        ),
        (
            "tests/unit/test_positions.py::"
            "test_a_carried_checkpoint_delivers_exactly_what_the_largest_valid_one_delivers",
        ),
    ),
    Variant(
        "mapped-checkpoint-too-high",
        "a checkpoint that is translated by mapping rows stands on the next event",
        (Edit(_POSITIONS, "            return lowest - 1\n", "            return lowest\n"),),
        (
            "tests/unit/test_positions.py::"
            "test_any_monotone_mapping_translates_to_the_largest_valid_position",
        ),
    ),
    Variant(
        "password-in-an-error",
        "messages show the password of a connection string",
        (
            Edit(
                "python/eventsource/dsn/redaction.py",
                '    return _NAMED_PASSWORD.sub(r"\\1***", _URI_PASSWORD.sub(r"\\1***", text))\n',
                "    return text\n",
            ),
        ),
        (
            "tests/unit/test_connections.py::test_redact_hides_every_password",
            "tests/unit/test_cli_output.py::test_a_failure_is_one_line_without_a_password",
        ),
    ),
    Variant(
        "password-in-a-repr",
        "the repr of a store's address shows its password",
        (
            Edit(
                "python/eventsource/connections.py",
                "    dsn: Secret = field(repr=False)\n",
                "    dsn: Secret\n",
            ),
        ),
        ("tests/unit/test_dataplane.py::test_no_repr_shows_a_password",),
    ),
    Variant(
        "password-as-a-setting",
        "what follows a password in a connection string is sent to the server as a setting",
        (
            Edit(
                "python/eventsource/dsn/spelling.py",
                "    if after_a_secret and name not in KNOWN:\n",
                "    if False:\n",
            ),
        ),
        (
            "tests/unit/test_passwords.py"
            "::test_no_piece_of_a_password_is_taken_for_a_host_or_a_setting",
        ),
    ),
    Variant(
        "half-a-password-as-a-port",
        "a connection string with an @ after its host is read to the letter",
        (
            Edit(
                "python/eventsource/dsn/spelling.py",
                '    if "@" in path:\n',
                "    if False:\n",
            ),
        ),
        (
            "tests/unit/test_passwords.py"
            "::test_no_piece_of_a_password_is_taken_for_a_host_or_a_setting",
        ),
    ),
    Variant(
        "safety-dropped-without-a-word",
        "what neither driver can keep of a connection string is left out",
        (
            Edit(
                "python/eventsource/dsn/parameters.py",
                "    if value.lower() not in harmless:\n",
                "    if False:\n",
            ),
        ),
        ("tests/unit/test_dsn.py::test_what_cannot_be_kept_is_refused_by_name",),
    ),
    Variant(
        "one-host-of-several",
        "a migration remembers one host of a connection string",
        (
            Edit(
                "python/eventsource/opening.py",
                "    hosts = list(dsn.hosts)\n",
                "    hosts = list(dsn.hosts)[:1]\n",
            ),
        ),
        (
            "tests/integration/dataplane/test_several_hosts.py::test_both_drivers_follow_the_primary",
        ),
    ),
    Variant(
        "any-version-will-do",
        "an append does not look at the version it expects",
        (
            Edit(
                "python/eventsource/stores/memory.py",
                "    return version == expected\n",
                "    return True\n",
            ),
        ),
        ("tests/unit/test_memory_store.py",),
    ),
    Variant(
        "taken-id-is-a-success",
        "an event id that is stored with another payload counts as stored",
        (
            Edit(
                "python/eventsource/stores/repeated.py",
                '            (stored.same_payload, "with another payload"),\n',
                "",
            ),
        ),
        (_CONTRACT,),
    ),
    Variant(
        "feed-passes-what-is-in-flight",
        "a reader of the feed passes positions whose transactions have not ended",
        (
            Edit(
                "python/eventsource/stores/sql/feed.sql",
                "        perform pg_try_advisory_xact_lock_shared("
                "tg_relid::integer # -1152626862,\n"
                "                                                 floor::bit(32)::integer);\n",
                "        null;\n",
            ),
        ),
        (
            "tests/integration/stores/test_feed.py::"
            "test_a_position_in_flight_is_waited_for_and_never_passed",
        ),
    ),
)
