"""What an operator asks for once a tenant is on its way, one file per subject."""
