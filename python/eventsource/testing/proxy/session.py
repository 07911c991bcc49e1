"""What is known of one connection that goes through the proxy."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from eventsource.testing.proxy.framing import Message, texts

#: Messages of each direction that show what a session does.
FROM_CLIENT, FROM_SERVER = "QPBEC", "CZSK"

#: Statements remembered of one transaction; the newest stay.
REMEMBERED = 200


@dataclass(slots=True, eq=False)
class Session:
    """One connection, for a predicate to look at.

    Attributes:
        number: counts the connections of a proxy from 1.
        parameters: the startup parameters (user, database, application_name, …), and what the
            server reported since.
        server_pid: process at the server, as in pg_stat_activity; 0 while it is not known.
        opaque: True when it is encrypted: its messages cannot be seen.
        transaction: the statements of the transaction that is open, or was the last; a long text
            is cut.
        state: ``I`` idle, ``T`` in a transaction, ``E`` in a failed one; empty before the login.
        is_open: False once it has ended.
    """

    number: int
    parameters: dict[str, str] = field(default_factory=dict)
    server_pid: int = 0
    opaque: bool = False
    transaction: deque[str] = field(default_factory=lambda: deque(maxlen=REMEMBERED))
    state: str = ""
    is_open: bool = True
    _prepared: dict[str, str] = field(default_factory=dict)
    _portals: dict[str, str] = field(default_factory=dict)
    _bound: set[str] = field(default_factory=set)
    _fresh: bool = True

    @property
    def application_name(self) -> str:
        """The name that the client gave, or an empty one."""
        return self.parameters.get("application_name", "")

    @property
    def database(self) -> str:
        """The database that it connects to; by default that of the user's name."""
        return self.parameters.get("database", self.user)

    @property
    def user(self) -> str:
        """The role that it logs in as."""
        return self.parameters.get("user", "")

    def ran(self, text: str) -> bool:
        """Whether a statement of the transaction contains the text, in any case of letters."""
        return any(text.lower() in statement.lower() for statement in self.transaction)

    def heard_from_client(self, message: Message) -> str | None:
        """Take a message in; the text of the statement that it begins to run, if it does."""
        match message.kind:
            case "Q":
                return self._runs(texts(message.head, 1)[0])
            case "P":
                name, text = texts(message.head, 2)
                self._prepared[name] = text
            case "B":
                portal, name = texts(message.head, 2)
                self._portals[portal] = self._prepared.get(name, "")
                self._bound.add(portal)
                return self._runs(self._portals[portal])
            case "E":
                portal = texts(message.head, 1)[0]
                if portal in self._bound:
                    # Noted when it was bound: a statement that is kept back is kept back whole.
                    self._bound.discard(portal)
                else:
                    return self._runs(self._portals.get(portal, ""))
            case "C" if message.head[:1] == b"S":
                self._prepared.pop(texts(message.head[1:], 1)[0], None)
        return None

    def heard_from_server(self, message: Message) -> str | None:
        """Take a message in; the tag of the statement that it completes, if it does."""
        match message.kind:
            case "C":
                return texts(message.head, 1)[0]
            case "Z":
                self.state = message.head[:1].decode("ascii", "replace")
                self._fresh = self.state == "I"
            case "S":
                name, value = texts(message.head, 2)
                self.parameters[name] = value
            case "K":
                self.server_pid = int.from_bytes(message.head[:4])
        return None

    def _runs(self, text: str) -> str:
        if self._fresh:
            self.transaction.clear()
            self._fresh = False
        self.transaction.append(text)
        return text
