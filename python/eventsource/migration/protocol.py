"""The version of the protocol that this version of the package speaks.

It stands beside every migration and every way back in the control database. A process that meets a
higher one leaves it alone: a newer version carries it on, by rules that are not known here.
"""

from __future__ import annotations

#: Of what the first version understands; most migrations are that.
FIRST = 1

#: Keeps the offset of a migration in place of a mapping row for each event.
OFFSET = 2

#: Loads tables of a layout without their indexes, and has to build them.
LOADED = 3

#: Raised by a version whose migrations an earlier version must not carry on.
SPOKEN = LOADED
