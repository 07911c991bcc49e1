"""How a tenant moves in tables of other libraries: by the keys that the guard writes down."""
