"""Faults at every failpoint, and random schedules of them: the matrix and the torture."""
