"""Layouts: what an event table and the tables beside it are, of whichever library."""
