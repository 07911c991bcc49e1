"""The router and the mirror: the side of the application."""
