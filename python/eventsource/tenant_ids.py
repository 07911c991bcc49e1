"""Tenant ids: UUIDs where an event table has such a column, text where it has another.

The control tables and the fences keep them as text. What has the form that PostgreSQL gives a UUID
is returned as a `UUID`, so that code that knows only UUIDs meets nothing else.
"""

from __future__ import annotations

from typing import TypeAlias
from uuid import UUID

#: A UUID and its text are the same tenant.
TenantId: TypeAlias = UUID | str

#: The longest id in bytes: an index entry of the control tables has to hold it.
LONGEST = 1000


def stored(tenant_id: TenantId) -> str:
    """As the control tables keep it."""
    return str(tenant_id)


def restored(text: str) -> TenantId:
    """From what a control table has: a `UUID` where the text is one exactly, else the text."""
    if len(text) == 36:
        try:
            value = UUID(text)
        except ValueError:
            return text
        # In another spelling it is another text, and a table of texts may have both.
        if str(value) == text:
            return value
    return text


def as_uuid(tenant_id: TenantId) -> UUID:
    """The id of a tenant in a table whose tenants are UUIDs, in any spelling.

    Raises:
        ValueError: it is none.
    """
    if isinstance(tenant_id, UUID):
        return tenant_id
    try:
        return UUID(tenant_id)
    except ValueError:
        raise ValueError(
            f"{tenant_id!r} is no UUID, and the tenants of this event table are UUIDs, such as"
            " aaaaaaaa-0000-4000-8000-000000000000"
        ) from None


def checked(tenant_id: TenantId) -> TenantId:
    """An id that somebody gave, in the form in which it is returned everywhere.

    Raises:
        ValueError: no tenant can have it.
    """
    if isinstance(tenant_id, UUID):
        return tenant_id
    if not tenant_id or "\x00" in tenant_id:
        raise ValueError("a tenant id cannot be empty, nor hold a NUL character")
    size = len(tenant_id.encode("utf-8"))
    if size > LONGEST:
        raise ValueError(f"a tenant id has at most {LONGEST} bytes, and this one has {size}")
    return restored(tenant_id)
