"""A web service whose tenants can move while it runs: see README.md."""
