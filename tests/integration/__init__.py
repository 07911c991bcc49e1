"""One part of the package at a time, on real servers."""
