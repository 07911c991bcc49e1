"""Verification: the seal of the bulk copy, and comparisons that go on."""
