"""The servers, writers, proxy and checker that the package ships for tests."""
