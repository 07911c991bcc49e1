"""Connection strings as libpq takes them, read in one place for both drivers."""
