"""A TCP proxy that understands PostgreSQL's protocol, to break the network at a chosen point.

A `Proxy` stands between clients and one server and runs in a thread of its own: the clients may be
this process or any other, they only connect to its port. It breaks things at once (`cut`, `delay`,
`throttle`, `stall`, `half_open`, `refuse`) or sets a `Trap` for a statement or a reply (`hold_at`,
`cut_at`, `lose_commit_reply`).
"""

from eventsource.testing.proxy.proxy import Proxy
from eventsource.testing.proxy.session import Session
from eventsource.testing.proxy.traps import Trap, named

__all__ = ["Proxy", "Session", "Trap", "named"]
