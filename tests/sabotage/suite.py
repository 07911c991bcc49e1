"""All variants."""

from __future__ import annotations

from tests.sabotage import (
    of_the_cutover,
    of_the_data_plane,
    of_the_edges,
    of_the_fleet,
    of_the_guard,
    of_the_journal,
    of_the_journals_size,
    of_the_layouts,
    of_the_moves,
    of_the_operator,
    of_the_partitions,
    of_the_passes,
    of_the_proof,
    of_the_recovery,
    of_the_roles,
    of_the_strangers,
    of_the_way_back,
    of_the_witnesses,
    of_waiting,
    of_ways_back_again,
)

VARIANTS = (
    *of_the_guard.VARIANTS,
    *of_the_cutover.VARIANTS,
    *of_the_journal.VARIANTS,
    *of_the_journals_size.VARIANTS,
    *of_the_passes.VARIANTS,
    *of_the_edges.VARIANTS,
    *of_the_data_plane.VARIANTS,
    *of_the_proof.VARIANTS,
    *of_the_roles.VARIANTS,
    *of_the_strangers.VARIANTS,
    *of_the_operator.VARIANTS,
    *of_the_way_back.VARIANTS,
    *of_waiting.VARIANTS,
    *of_ways_back_again.VARIANTS,
    *of_the_witnesses.VARIANTS,
    *of_the_moves.VARIANTS,
    *of_the_fleet.VARIANTS,
    *of_the_layouts.VARIANTS,
    *of_the_partitions.VARIANTS,
    *of_the_recovery.VARIANTS,
)
