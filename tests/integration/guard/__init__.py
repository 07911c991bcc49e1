"""The guard: what writers of the tenant meet, and how it gets its triggers."""
