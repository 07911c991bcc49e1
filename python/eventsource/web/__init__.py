"""A page that shows what moves; it changes nothing."""
