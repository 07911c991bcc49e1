"""The driver's own connections, their marks, and how long a silent server is waited for."""
