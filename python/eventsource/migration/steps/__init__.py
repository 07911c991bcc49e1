"""The chapters of a migration, in their order."""
