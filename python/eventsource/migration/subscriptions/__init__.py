"""What becomes of subscriptions and their positions when a tenant moves."""
