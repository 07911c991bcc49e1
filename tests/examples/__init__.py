"""The example applications, run as their users run them."""
