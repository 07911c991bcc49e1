"""Tenants that move in tables of other libraries."""
