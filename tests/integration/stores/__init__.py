"""The PostgreSQL store: its contract, its schema, its feed."""
