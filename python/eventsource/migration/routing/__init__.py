"""The application's side: where a tenant lives, and the mirror of its writes."""
