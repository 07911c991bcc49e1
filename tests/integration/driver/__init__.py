"""Who drives a migration: the journal, what operators ask for, aborts, the pace."""
