"""Random schedules of writers, faults and restarts, for tables of other libraries."""
