"""`report`: how a move went, for the terminal, as JSON, or as one HTML file."""
