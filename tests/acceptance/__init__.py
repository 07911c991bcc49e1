"""Whole moves of tenants, as an application and its operators see them."""
