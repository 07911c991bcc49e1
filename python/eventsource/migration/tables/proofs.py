"""What a decision names, and a target must hold to be opened."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Proof:
    """The last pass, and all of them together.

    A target that was put back to an earlier moment has the progress row of that moment: another
    pass, or another token. ``total`` are the rows of all passes, which is what the source holds of
    the tenant.
    """

    last_pass: int
    token: UUID
    rows: int
    digest: bytes
    total: int


def proof_of(
    last_pass: int | None,
    token: UUID | None,
    rows: int | None,
    digest: bytes | None,
    total: int | None,
) -> Proof | None:
    """From the columns of a fence row."""
    if last_pass is None or token is None or rows is None or digest is None or total is None:
        return None
    return Proof(last_pass, token, rows, digest, total)
