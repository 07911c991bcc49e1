"""The statements of the checkpoint table."""
