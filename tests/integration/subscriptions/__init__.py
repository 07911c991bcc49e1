"""Checkpoints and positions of a tenant that moves."""
