"""Making a report, which the audit log then knows, and asking whether a file is still that one."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

from eventsource.cli import files
from eventsource.cli.report import pages, seal
from eventsource.migration.repositories import lookups

if TYPE_CHECKING:
    from eventsource.cli.workspace import Workspace

_KINDS = {"html": pages.as_html, "json": pages.as_json, "text": pages.as_text}


@dataclass(frozen=True, slots=True)
class Made:
    """What the audit log knows of a report that was made."""

    sha256: str
    migration_id: UUID
    made_at: datetime
    operator: str | None


async def make(
    at: Workspace, migration_id: UUID, kind: str, file: Path | None = None
) -> tuple[str, str]:
    """The report of a migration as "html", "json" or "text", and its digest.

    It is in the audit log once it is in its file, if there is to be one.
    """
    text = _KINDS[kind](await at.coordinator.report(migration_id, at.checkpoints))
    digest = seal.digest_of(text.encode())
    if file is not None:
        await asyncio.to_thread(files.write, file, text)
    await at.migrations.audit(
        migration_id, "reported", {"sha256": digest, "kind": kind}, at.operator
    )
    return text, digest


async def write(at: Workspace, migration_id: UUID, file: Path) -> str:
    """Write the report as HTML; returns its digest."""
    _, digest = await make(at, migration_id, "html", file)
    return digest


async def find(at: Workspace, read: bytes) -> Made:
    """What is known of the report that a file holds, if it is as it was made.

    Raises:
        ReportChangedError: it is not, or no audit log of this control database knows it.
    """
    digest = seal.digest_of(read)
    row = await lookups.reported(at.control, digest)
    if row is None:
        raise seal.ReportChangedError(
            f"the report ends with its own digest {digest}, but no audit log of this control"
            " database knows it: it was made elsewhere, or changed together with its digest"
        )
    return Made(digest, *row)
