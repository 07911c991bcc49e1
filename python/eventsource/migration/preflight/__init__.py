"""Everything that would refuse a move, looked at before anything is changed."""
