"""What tests share: worlds to migrate in, and what is done in them."""
