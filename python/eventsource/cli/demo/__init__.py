"""`eventsource-migrate demo`: two servers, writers, one tenant that moves, and the proof."""
