"""After a restore: what the stores say, and how everything else is brought in line with it."""
