"""Every parameter of libpq's: where its default comes from, and which are refused and why."""

from __future__ import annotations

from eventsource.errors import ConnectionDetailsError

#: Those that are honoured, with the environment variable that stands for each.
HONOURED = {
    "host": "PGHOST",
    "hostaddr": "PGHOSTADDR",
    "port": "PGPORT",
    "dbname": "PGDATABASE",
    "user": "PGUSER",
    "password": "PGPASSWORD",
    "passfile": "PGPASSFILE",
    "service": "PGSERVICE",
    "servicefile": "PGSERVICEFILE",
    "options": "PGOPTIONS",
    "application_name": "PGAPPNAME",
    "fallback_application_name": "",
    "connect_timeout": "PGCONNECT_TIMEOUT",
    "keepalives": "",
    "keepalives_idle": "",
    "keepalives_interval": "",
    "keepalives_count": "",
    "tcp_user_timeout": "",
    "sslmode": "PGSSLMODE",
    "requiressl": "PGREQUIRESSL",
    "sslnegotiation": "PGSSLNEGOTIATION",
    "sslcert": "PGSSLCERT",
    "sslkey": "PGSSLKEY",
    "sslcertmode": "PGSSLCERTMODE",
    "sslrootcert": "PGSSLROOTCERT",
    "ssl_min_protocol_version": "PGSSLMINPROTOCOLVERSION",
    "ssl_max_protocol_version": "PGSSLMAXPROTOCOLVERSION",
    "channel_binding": "PGCHANNELBINDING",
    "target_session_attrs": "PGTARGETSESSIONATTRS",
    "load_balance_hosts": "PGLOADBALANCEHOSTS",
}

_KERBEROS = "give this role a password or a client certificate, and leave it out"
_SERVER_SIDE = "demand it in the server's pg_hba.conf, take sslmode=verify-full, and leave it out"

#: Those that neither driver, or only one of them, can do: what may stand there all the same because
#: it asks for nothing, and what to do instead.
REFUSED: dict[str, tuple[frozenset[str], str]] = {
    "sslcrl": (frozenset(), "the data plane reads no revocation lists; trust an authority of the"
               " servers' own with sslrootcert, change it when a key is lost, and leave it out"),
    "sslcrldir": (frozenset(), "the data plane reads no revocation lists; trust an authority of the"
                  " servers' own with sslrootcert, change it when a key is lost, and leave it out"),
    "sslpassword": (frozenset(), "an encrypted sslkey cannot be used: keep a key without a"
                    " passphrase in a file that only this user may read"),
    "sslcertmode": (frozenset({"disable", "allow"}), "whether a server asks for a certificate"
                    f" cannot be seen: {_SERVER_SIDE}"),
    "sslsni": (frozenset({"1"}), "the server's name is always sent; leave it out"),
    "sslcompression": (frozenset({"0"}), "TLS is never compressed; leave it out"),
    "sslkeylogfile": (frozenset(), "keys of sessions are never written down; leave it out"),
    "channel_binding": (frozenset({"disable", "prefer"}), "asyncpg cannot bind a channel: take"
                        " channel_binding=prefer with sslmode=verify-full, which keeps out the same"
                        " impostors"),
    "require_auth": (frozenset(), f"the methods cannot be limited here: {_SERVER_SIDE}"),
    "requirepeer": (frozenset(), "the owner of a socket cannot be asked: keep it in a directory"
                    " that only the server's user may write to, and leave it out"),
    "gssencmode": (frozenset({"disable", "prefer"}), "GSSAPI is not supported: take gssencmode="
                   "disable with sslmode=verify-full"),
    "krbsrvname": (frozenset(), f"Kerberos is not supported: {_KERBEROS}"),
    "gsslib": (frozenset(), f"Kerberos is not supported: {_KERBEROS}"),
    "gssdelegation": (frozenset({"0"}), f"Kerberos is not supported: {_KERBEROS}"),
    "client_encoding": (frozenset({"utf8", "utf-8", "unicode", "auto"}), "both drivers speak UTF8;"
                        " leave it out"),
    "replication": (frozenset({"false", "off", "no", "0"}), "stores are not read by replication;"
                    " leave it out"),
    "min_protocol_version": (frozenset({"3.0"}), "both drivers speak version 3.0; leave it out"),
    "max_protocol_version": (frozenset({"3.0", "3.2", "latest"}), "both drivers speak version 3.0;"
                             " leave it out"),
    "scram_client_key": (frozenset(), "give the password instead"),
    "scram_server_key": (frozenset(), "give the password instead"),
    "oauth_issuer": (frozenset(), "OAuth is not supported: give a password, which may be a function"
                     " that returns the token"),
    "oauth_client_id": (frozenset(), "OAuth is not supported: give a password"),
    "oauth_client_secret": (frozenset(), "OAuth is not supported: give a password"),
    "oauth_scope": (frozenset(), "OAuth is not supported: give a password"),
    "authtype": (frozenset(), "it has had no meaning since PostgreSQL 7; leave it out"),
    "tty": (frozenset(), "it has had no meaning since PostgreSQL 7; leave it out"),
}  # fmt: skip

KNOWN = HONOURED.keys() | REFUSED.keys()

#: Of the environment those that ask for safety. The others belong to whatever else runs there, and
#: a connection that they would change is not made: Kerberos, or another encoding of the text.
REFUSED_FROM_ENVIRONMENT = {
    "sslcrl": "PGSSLCRL",
    "sslcrldir": "PGSSLCRLDIR",
    "sslcertmode": "PGSSLCERTMODE",
    "sslsni": "PGSSLSNI",
    "channel_binding": "PGCHANNELBINDING",
    "require_auth": "PGREQUIREAUTH",
    "requirepeer": "PGREQUIREPEER",
    "gssencmode": "PGGSSENCMODE",
    "min_protocol_version": "PGMINPROTOCOLVERSION",
}


def refuse(name: str, value: str, where: str = "the DSN") -> None:
    """Raise ConnectionDetailsError, by the name, for what cannot be done as asked."""
    if name not in REFUSED:
        return
    harmless, instead = REFUSED[name]
    if value.lower() not in harmless:
        raise ConnectionDetailsError(f"{where} asks for {name}, which cannot be kept: {instead}")


def choice(name: str, value: str, *among: str) -> str:
    """``value`` if it is one of these; the error names the parameter and not the value."""
    if value not in among:
        raise ConnectionDetailsError(
            f"the DSN's {name} has an unknown value; take one of {', '.join(among)}"
        )
    return value


def whole(name: str, value: str) -> int:
    """``value`` as a whole number; the error names the parameter and not the value."""
    if not value.strip().lstrip("-").isdecimal():
        raise ConnectionDetailsError(f"the DSN's {name} is not a whole number; write one")
    return int(value)
