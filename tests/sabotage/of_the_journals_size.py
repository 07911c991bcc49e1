"""Rules about a journal of changed keys that has become too large."""

from __future__ import annotations

from tests.sabotage.variant import Edit, Variant

_JOURNALED = "python/eventsource/migration/journaled"
_TESTS = "tests/layouts/test_journal_size.py::"
_CARRIED = f"{_TESTS}test_a_paused_migration_stops_writing_down_and_carries_all_again"
_COMPACTED = "tests/layouts/test_compaction.py::"
_WAITED = f"{_TESTS}test_a_writer_that_has_seen_it_full_is_waited_for"

VARIANTS = (
    Variant(
        "journal-without-a-limit",
        "the journal grows until the disk is full",
        (
            Edit(
                "python/eventsource/stores/sql/journal.sql",
                "or nextval(counter) <= most then\n",
                "or true then\n",
            ),
        ),
        (_CARRIED,),
    ),
    Variant(
        "journal-overflows-unsaid",
        "changes are not written down, and nothing says so",
        (
            Edit(
                "python/eventsource/stores/sql/journal.sql",
                "values (-guarded, 1, '\"overflowed\"');",
                "values (-guarded, 2, '\"overflowed\"');",
            ),
        ),
        (_CARRIED,),
    ),
    Variant(
        "journal-overflow-not-waited-for",
        "a transaction that found the journal full commits after everything was read",
        (
            Edit(
                f"{_JOURNALED}/overflow.py",
                "    await guarded.each(guarded.renew, fence)\n",
                "",
            ),
        ),
        (f"{_WAITED}[read committed]",),
    ),
    Variant(
        "journal-overflow-of-an-old-snapshot",
        "a transaction whose snapshot shows the journal full writes after everything was read",
        (
            Edit(
                f"{_JOURNALED}/changes.py",
                'f"update {source.fences} set updated_at = now() where fence_id = $1", fence_id',
                'f"update {source.fences} set updated_at = now() where -fence_id = $1", fence_id',
            ),
        ),
        (f"{_TESTS}test_a_writer_with_a_snapshot_from_before_is_sent_back",),
    ),
    Variant(
        "journal-counts-what-is-carried",
        "a tenant that writes for long enough is carried again and again",
        (
            Edit(
                f"{_JOURNALED}/changes.py",
                '    if tag != "INSERT 0 0":\n',
                '    if tag == "":\n',
            ),
        ),
        (_CARRIED,),
    ),
    Variant(
        "journal-not-compacted",
        "a row that changes all the time fills the journal, and everything is carried again",
        (
            Edit(
                f"{_JOURNALED}/compaction.py",
                "            await _delete_older(source, fence_id, self.snapshot)\n",
                "",
            ),
        ),
        (f"{_COMPACTED}test_a_row_that_changes_all_the_time_does_not_fill_the_journal",),
    ),
    Variant(
        "journal-compacted-by-ids",
        "a change of a transaction that began early and came late is not carried",
        (
            Edit(
                f"{_JOURNALED}/compaction.py",
                "{changes.shown(snapshot, 'older.xid')}",
                "older.xid < '{following}'::xid8",
            ),
        ),
        (f"{_COMPACTED}test_a_change_that_a_pass_may_ask_for_stays",),
    ),
    Variant(
        "journal-kept-for-the-oldest",
        "the journal keeps everything while one transaction runs for days",
        (
            Edit(
                f"{_JOURNALED}/changes.py",
                " and ({shown(upto)} or table_no",
                " and (xid < '{int(upto.split(':')[0])}'::xid8 or table_no",
            ),
        ),
        (f"{_COMPACTED}test_what_a_pass_has_carried_goes_although_a_transaction_runs_for_days",),
    ),
    Variant(
        "journal-in-memory",
        "a pass over many keys takes all of them at once",
        (
            Edit(
                f"{_JOURNALED}/changes.py",
                'self.connection.fetch(f"fetch forward {size} from {name}")',
                'self.connection.fetch(f"fetch forward all from {name}")',
            ),
        ),
        (f"{_TESTS}test_a_large_pass_holds_one_portion_at_a_time",),
    ),
)
