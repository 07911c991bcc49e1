"""Databases with stores and a tenant, each with what its tests may do to it."""
