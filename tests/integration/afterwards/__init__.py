"""What is done once a tenant has moved."""
