"""The cutover: its order, its budget, its decision, and drivers that are lost in it."""
