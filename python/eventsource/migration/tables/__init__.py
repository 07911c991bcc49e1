"""What a migration keeps beside an event table, on either side."""
