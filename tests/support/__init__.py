"""What tests share: worlds to migrate in, and what is done in them."""

from pathlib import Path

#: The root of the repository.
REPOSITORY = Path(__file__).parents[2]
