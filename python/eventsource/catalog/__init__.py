"""What the server's catalog says of an event table, read once, and what follows from it.

Nothing here changes anything. Stores ask before they make or upgrade a table, migrations before
they begin, when they put their guard up and when they decide.
"""
