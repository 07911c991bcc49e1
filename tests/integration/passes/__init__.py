"""The passes: which rows each one carries, and to which positions."""
