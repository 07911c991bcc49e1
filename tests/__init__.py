"""The tests, as one package: what they share is imported from `tests.support`."""
