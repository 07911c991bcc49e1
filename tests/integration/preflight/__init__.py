"""What is refused before anything is changed."""
