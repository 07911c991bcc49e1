"""Repairs after a restore, on databases that are put back by hand."""
