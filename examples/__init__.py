"""Programs that use the product, run in the tests."""
