"""Who takes the steps of a migration, again and again, under a lease."""
