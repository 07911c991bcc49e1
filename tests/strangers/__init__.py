"""Databases as other people have them: each is moved equal and fenced, or refused by name."""
