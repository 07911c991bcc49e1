"""What of this distribution lies outside of the package ``eventsource``; why: neighbours.py."""
