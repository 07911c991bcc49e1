"""Event tables of other libraries, known by their columns: named, and left alone."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

#: What only a table of that library has. The first that fits is it.
_LAYOUTS: Final[tuple[tuple[str, frozenset[str]], ...]] = tuple(
    (name, frozenset(columns.split()))
    for name, columns in (
        ("Marten", "seq_id stream_id data type mt_dotnet_type"),
        ("Marten", "seq_id stream_id data type tenant_id"),
        ("Emmett", "stream_id stream_position message_data message_type global_position"),
        (
            "Eventuous",
            "message_type stream_id stream_position global_position json_data",
        ),
        ("SqlStreamStore", "stream_id_internal message_id stream_version position json_data"),
        ("Message DB", "stream_name type position global_position data"),
        ("Axon Framework", "global_index event_identifier aggregate_identifier payload_type"),
        ("Axon Framework", "globalindex eventidentifier aggregateidentifier payloadtype"),
        ("Axon Framework", "global_index identifier aggregate_identifier payload timestamp"),
        ("eventsourcing (Python)", "originator_id originator_version topic state"),
        ("Rails Event Store", "event_id event_type data metadata created_at valid_at"),
        ("Akka or Pekko Persistence", "ordering persistence_id sequence_number"),
        ("Commanded (Elixir)", "event_id event_type causation_id correlation_id data metadata"),
        ("Commanded (Elixir)", "event_id stream_id stream_version original_stream_id"),
        ("prooph", "no event_id event_name payload metadata created_at"),
        ("Broadway", "uuid playhead payload recorded_on"),
        ("Sequent", "aggregate_id sequence_number event_type event_json"),
        ("Spatie laravel-event-sourcing", "aggregate_uuid aggregate_version event_class"),
        ("EventSauce", "event_id aggregate_root_id version payload"),
        ("Eventide", "stream_name type position global_position"),
        ("Eventuate", "event_id event_type event_data entity_type entity_id"),
    )
)

#: What moves the tenants of these libraries' tables: the layout of that name.
PRESETS: Final = {
    "Marten": "marten",
    "eventsource-py": "eventsource-py",
    "Message DB": "message-db",
    "Rails Event Store": "rails-event-store",
    "Emmett": "emmett",
}

#: As many columns of ours may be missing before advice to add them makes no sense any more.
MENDABLE: Final = 2


def library_of(columns: Collection[str]) -> str | None:
    """The library whose event table has these columns, None when it is none that is known."""
    present = {name.lower() for name in columns}
    # A table with what is ours in it is ours, whatever else it has.
    if {"global_position", "event_id", "aggregate_id", "aggregate_type", "version"} <= present:
        # But for one that began as it did, and has neither of what was added here.
        theirs = {"payload", "tenant_id"} <= present and not {
            "metadata",
            "transaction_id",
        } & present
        return "eventsource-py" if theirs else None
    return next((name for name, wanted in _LAYOUTS if wanted <= present), None)


def not_ours(table: str, columns: Collection[str], missing: Collection[str]) -> str | None:
    """Why no advice for single columns is given, None when it should be."""
    library = library_of(columns)
    if library in PRESETS:
        return (
            f"{table} is a {library} event table, which its own library reads and writes. To move"
            f' its tenants, give the store layout = "{PRESETS[library]}" in place of a table'
            " (`eventsource-migrate layouts` explains it)"
        )
    if library is not None:
        return (
            f"{table} is a {library} event table: its layout is another one, and no store of this"
            f" package reads or writes it. Leave it to {library}, and pass the name of a table of"
            " its own for this store"
        )
    if len(missing) > MENDABLE:
        return (
            f"{table} is no event table: it lacks {', '.join(missing)}. Pass the name of a table"
            " that is not there yet, and its layout is made"
        )
    return None
