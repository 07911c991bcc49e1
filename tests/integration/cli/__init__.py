"""The command line, called as an operator calls it."""
