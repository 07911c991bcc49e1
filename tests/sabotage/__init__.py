"""Deliberately broken variants of the package, each of which the tests have to notice.

``python -m tests.sabotage`` (or ``make sabotage``) breaks one rule at a time in a private copy of
the repository, runs there the tests that ought to object, and says which of them did. A variant
that no test objects to is a failure: either the rule is not needed or a test is missing.
"""
