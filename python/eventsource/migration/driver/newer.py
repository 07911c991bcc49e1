"""What a newer version carries on: it is left alone, and the log says so once."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING
from uuid import UUID

from eventsource.migration.protocol import SPOKEN

if TYPE_CHECKING:
    from eventsource.migration.models import Migration
    from eventsource.migration.repositories.ways_back import WayBack

_log = logging.getLogger("eventsource.migration.driver")


class LeftAlone:
    """What this process has said of migrations and ways back that it must not carry on."""

    def __init__(self) -> None:
        self._said: set[UUID] = set()

    def leaves(self, found: Migration | WayBack) -> bool:
        """Whether this one is for a newer version."""
        if not found.is_newer:
            return False
        if found.id not in self._said:
            self._said.add(found.id)
            what = "way back" if hasattr(found, "migration_id") else "migration"
            _log.warning(
                "%s %s needs version %d of the protocol, and this process speaks version %d: it is"
                " left alone; upgrade this process",
                what, found.id, found.protocol, SPOKEN, extra={"migration_id": found.id},
            )  # fmt: skip
        return True
