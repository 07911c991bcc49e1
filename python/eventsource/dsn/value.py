"""What a connection string says, as one frozen value, and the URI that the data plane reads."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import quote, urlencode

from eventsource.errors import ConnectionDetailsError

#: Keepalives unless the string says otherwise: a connection whose other end is gone without a word
#: is an error within half a minute, not after the system's two hours.
IDLE_SECONDS, INTERVAL_SECONDS, COUNT, USER_TIMEOUT_MS = 10, 5, 3, 30_000

#: How long a host may take to answer unless the string says otherwise (seconds).
CONNECT_SECONDS = 10


@dataclass(frozen=True, slots=True)
class Host:
    """One server: a name or an address, or the directory of a unix socket."""

    name: str
    port: int
    address: str = ""

    @property
    def is_socket(self) -> bool:
        return self.name.startswith("/")

    @property
    def target(self) -> str:
        """Where to connect to: the address if it was named beside the name."""
        return self.address or self.name

    def __str__(self) -> str:
        name = self.name or self.address
        return f"[{name}]:{self.port}" if ":" in name else f"{name}:{self.port}"


@dataclass(frozen=True, slots=True)
class Tls:
    """``mode`` is libpq's sslmode with its defaults filled in; ``roots`` a file or "system"."""

    mode: str = "prefer"
    roots: str | None = None
    certificate: str | None = None
    key: str | None = None
    shows_certificate: bool = True
    lowest: str | None = None
    highest: str | None = None
    direct: bool = False


@dataclass(frozen=True, slots=True)
class Keepalive:
    """Seconds, seconds, a count and milliseconds; 0 leaves it to the system."""

    on: bool = True
    idle: int = IDLE_SECONDS
    interval: int = INTERVAL_SECONDS
    count: int = COUNT
    user_timeout: int = USER_TIMEOUT_MS


@dataclass(frozen=True, slots=True)
class Dsn:
    """Where a database is, who connects and how; everything of libpq's that is honoured.

    Attributes:
        connect_timeout: seconds for one host.
        attributes: libpq's target_session_attrs.
        settings: of the server's session, ``options`` among them.
    """

    hosts: tuple[Host, ...]
    user: str
    database: str
    password: str | None = field(default=None, repr=False)
    tls: Tls = Tls()
    keepalive: Keepalive = Keepalive()
    connect_timeout: int = CONNECT_SECONDS
    attributes: str = "any"
    in_any_order: bool = False
    channel_binding: str = "prefer"
    application_name: str | None = None
    settings: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        """In words for messages: everything that says which database, and no password."""
        return f"{self.user}@{self.place}"

    @property
    def place(self) -> str:
        """Which database, without the user."""
        return f"{','.join(map(str, self.hosts))}/{self.database}"

    def for_writing(self) -> Dsn:
        """The same, sure to end at a server that takes writes: of several hosts the primary.

        Raises:
            ConnectionDetailsError: it asks for a standby.
        """
        if self.attributes in ("read-only", "standby", "prefer-standby"):
            raise ConnectionDetailsError(
                f"the DSN has target_session_attrs={self.attributes}, and a migration has to"
                " write: pass dsn= with target_session_attrs=read-write"
            )
        if self.attributes == "any" and len(self.hosts) > 1:
            return replace(self, attributes="primary")
        return self

    def uri(self) -> str:
        """The data plane's spelling, which libpq and its programs read too; holds the password."""
        query = dict(self._parameters())
        if any(host.is_socket for host in self.hosts):
            authority = ""
            query["host"] = ",".join(host.name for host in self.hosts)
            query["port"] = ",".join(str(host.port) for host in self.hosts)
        else:
            authority = ",".join(_in_authority(host) for host in self.hosts)
        credentials = quote(self.user, safe="")
        if self.password:
            credentials += ":" + quote(self.password, safe="")
        text = f"postgresql://{credentials}@{authority}/{quote(self.database, safe='')}"
        # Not quote_plus: libpq and the data plane read "+" as a plus sign.
        return text + "?" + urlencode(query, quote_via=quote, safe="")

    def _parameters(self) -> Mapping[str, str]:
        tls, keep = self.tls, self.keepalive
        attributes, settings = self.attributes, dict(self.settings)
        if attributes == "primary":
            # The data plane knows "read-write" only, which a role that reads by default is not.
            attributes = "read-write"
            settings["default_transaction_read_only"] = "off"
        given = {
            "sslmode": tls.mode,
            "sslrootcert": tls.roots,
            "sslcert": tls.certificate,
            "sslkey": tls.key,
            "sslcertmode": None if tls.shows_certificate else "disable",
            "ssl_min_protocol_version": tls.lowest,
            "ssl_max_protocol_version": tls.highest,
            "sslnegotiation": "direct" if tls.direct else None,
            "hostaddr": ",".join(host.address for host in self.hosts),
            "connect_timeout": str(self.connect_timeout),
            "keepalives": "1" if keep.on else "0",
            "keepalives_idle": str(keep.idle) if keep.idle else None,
            "keepalives_interval": str(keep.interval) if keep.interval else None,
            "keepalives_count": str(keep.count) if keep.count else None,
            "tcp_user_timeout": str(keep.user_timeout) if keep.user_timeout else None,
            "target_session_attrs": None if attributes == "any" else attributes,
            "load_balance_hosts": "random" if self.in_any_order else None,
            "channel_binding": None if self.channel_binding == "prefer" else self.channel_binding,
            "options": startup_options(settings),
        }
        return {name: value for name, value in given.items() if value and value.strip(",")}


def _in_authority(host: Host) -> str:
    name = host.name or host.address
    return f"[{name}]:{host.port}" if ":" in name else f"{quote(name, safe='')}:{host.port}"


def startup_options(settings: Mapping[str, str]) -> str:
    """Session settings in the form of the ``options`` startup parameter."""
    words = [settings["options"]] if settings.get("options") else []
    for name, value in settings.items():
        if name != "options":
            escaped = re.sub(r"([\\\s])", r"\\\1", value)
            words.append(f"-c {name}={escaped}")
    return " ".join(words)
