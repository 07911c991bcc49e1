"""The statements of the waves."""
