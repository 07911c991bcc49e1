"""A connection string, its files and the environment, read into one value.

Nothing is dropped without a word: what neither driver can do, or only one of them, is refused by
its name.
"""

from __future__ import annotations

import getpass
import os
from collections.abc import Mapping
from pathlib import Path

from eventsource.dsn import files
from eventsource.dsn.parameters import (
    HONOURED,
    REFUSED,
    REFUSED_FROM_ENVIRONMENT,
    choice,
    refuse,
    whole,
)
from eventsource.dsn.spelling import is_uri, pairs_of
from eventsource.dsn.value import CONNECT_SECONDS, Dsn, Host, Keepalive, Tls
from eventsource.errors import ConnectionDetailsError

_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_VERSIONS = ("TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")
_SOCKETS = ("/run/postgresql", "/var/run/postgresql", "/tmp")

#: Names that a DSN with a host of its own takes from nowhere else.
_OF_THE_HOST = ("host", "hostaddr", "service")


def parse(text: str, environment: Mapping[str, str] | None = None) -> Dsn:
    """Read a URI or a list of ``keyword=value``.

    What the string leaves out comes from its service, then from the environment (`PGUSER` and the
    like), then from libpq's defaults. A string that names its host is taken as it is: another
    host's address and a service of the environment do not get into it.

    Raises:
        ConnectionDetailsError: it cannot be read, or asks for what cannot be kept.
    """
    environment = os.environ if environment is None else environment
    given = pairs_of(text) if text else {}
    if text and not is_uri(text) and (unknown := given.keys() - HONOURED.keys() - REFUSED.keys()):
        raise ConnectionDetailsError(
            f"the DSN has a keyword that libpq does not know ({', '.join(sorted(unknown))});"
            " write a setting of the server as options='-c name=value'"
        )
    return read(given, environment)


def read(given: Mapping[str, str], environment: Mapping[str, str]) -> Dsn:
    """The same from parameters that are taken apart already."""
    pairs = _with_service(dict(given), environment)
    for name, value in pairs.items():
        refuse(name, value)
    pairs = _with_environment(pairs, environment)
    hosts = _hosts(pairs, environment)
    user = pairs.get("user") or _login()
    database = pairs.get("dbname") or user
    settings = {name: value for name, value in pairs.items() if name not in HONOURED | REFUSED}
    if pairs.get("options"):
        settings["options"] = pairs["options"]
    return Dsn(
        hosts=hosts,
        user=user,
        database=database,
        password=_password(pairs, environment, hosts, database, user),
        tls=_tls(pairs, environment, hosts),
        keepalive=_keepalive(pairs),
        connect_timeout=_connect_timeout(pairs),
        attributes=choice(
            "target_session_attrs", pairs.get("target_session_attrs", "any"),
            "any", "read-write", "read-only", "primary", "standby", "prefer-standby",
        ),
        in_any_order=choice(
            "load_balance_hosts", pairs.get("load_balance_hosts", "disable"), "disable", "random"
        ) == "random",
        channel_binding=pairs.get("channel_binding", "prefer"),
        application_name=pairs.get("application_name") or pairs.get("fallback_application_name"),
        settings=tuple(settings.items()),
    )  # fmt: skip


def _with_service(pairs: dict[str, str], environment: Mapping[str, str]) -> dict[str, str]:
    name = pairs.pop("service", None)
    if name is None and not (pairs.get("host") or pairs.get("hostaddr")):
        name = environment.get("PGSERVICE")
    file = pairs.pop("servicefile", None) or environment.get("PGSERVICEFILE")
    return {**files.service(name, file, environment), **pairs} if name else pairs


def _with_environment(pairs: dict[str, str], environment: Mapping[str, str]) -> dict[str, str]:
    complete = bool(pairs.get("host") or pairs.get("hostaddr"))
    for name, variable in HONOURED.items():
        value = environment.get(variable) if variable else None
        if value and name not in pairs and not (complete and name in _OF_THE_HOST):
            pairs[name] = value
            refuse(name, value, f"{variable} in the environment")
    for name, variable in REFUSED_FROM_ENVIRONMENT.items():
        # Revocation lists count where certificates do, which is known later.
        if name not in pairs and environment.get(variable) and not name.startswith("sslcrl"):
            refuse(name, environment[variable], f"{variable} in the environment")
    return pairs


def _hosts(pairs: Mapping[str, str], environment: Mapping[str, str]) -> tuple[Host, ...]:
    names = pairs["host"].split(",") if pairs.get("host") else []
    addresses = pairs["hostaddr"].split(",") if pairs.get("hostaddr") else []
    ports = [whole("port", each or "5432") for each in pairs.get("port", "5432").split(",")]
    if any(not 0 < port < 65536 for port in ports):
        raise ConnectionDetailsError("the DSN's port is not between 1 and 65535; write one that is")
    if not names and not addresses:
        names = [_default_host(ports[0])]
    if names and addresses and (len(names) != len(addresses) or not all(addresses)):
        raise ConnectionDetailsError(
            "the DSN's hostaddr has not one address for each host; give as many, or none"
        )
    names = names or [""] * len(addresses)
    addresses = addresses or [""] * len(names)
    if len(ports) == 1:
        ports *= len(names)
    if len(ports) != len(names):
        raise ConnectionDetailsError(
            "the DSN's port has not one number for each host; give as many, or one for all"
        )
    if any(name.startswith("@") for name in names):
        raise ConnectionDetailsError(
            "the DSN names an abstract socket, which asyncpg cannot open; take one in a directory"
        )
    return tuple(
        Host(name or ("" if address else "localhost"), port, address)
        for name, port, address in zip(names, ports, addresses, strict=True)
    )


def _default_host(port: int) -> str:
    for directory in _SOCKETS:
        if Path(directory, f".s.PGSQL.{port}").exists():
            return directory
    return "localhost"


def _login() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        raise ConnectionDetailsError(
            "the DSN names no user, and this process has no name; write user= into the DSN"
        ) from None


def _password(
    pairs: Mapping[str, str],
    environment: Mapping[str, str],
    hosts: tuple[Host, ...],
    database: str,
    user: str,
) -> str | None:
    if pairs.get("password"):
        return pairs["password"]
    if named := pairs.get("passfile"):
        return files.password(Path(named), True, hosts, database, user)
    own = files.home(environment)
    return files.password(own / ".pgpass", False, hosts, database, user) if own else None


def _tls(pairs: Mapping[str, str], environment: Mapping[str, str], hosts: tuple[Host, ...]) -> Tls:
    own = files.home(environment)

    def existing(name: str) -> str | None:
        path = own / ".postgresql" / name if own else None
        return str(path) if path and path.is_file() else None

    roots = pairs.get("sslrootcert") or existing("root.crt")
    mode = pairs.get("sslmode")
    if mode is None and pairs.get("requiressl") == "1":
        mode = "require"
    mode = mode or ("verify-full" if roots == "system" else "prefer")
    choice("sslmode", mode, *_MODES)
    direct = choice("sslnegotiation", pairs.get("sslnegotiation", "postgres"), "postgres", "direct")
    if all(host.is_socket for host in hosts):
        return Tls("disable")
    if roots == "system" and mode != "verify-full":
        raise ConnectionDetailsError(
            "the DSN has sslrootcert=system with a weaker sslmode, by which anybody with a"
            " certificate of a public authority could pose as the server; take sslmode=verify-full"
        )
    if mode == "require" and roots:
        mode = "verify-ca"  # as in libpq
    if mode.startswith("verify"):
        if not roots:
            raise ConnectionDetailsError(
                f"the DSN has sslmode={mode} and nothing to verify by: name the authority's"
                " certificate in sslrootcert, or take sslrootcert=system with sslmode=verify-full"
            )
        _refuse_revocation_lists(environment, existing("root.crl"))
    if direct == "direct" and mode in ("disable", "allow", "prefer"):
        raise ConnectionDetailsError(
            "the DSN has sslnegotiation=direct, which needs sslmode=require or stronger"
        )
    certificate, key = pairs.get("sslcert"), pairs.get("sslkey")
    shows = pairs.get("sslcertmode") != "disable"
    if not shows:
        certificate = key = None
    else:
        certificate = certificate or existing("postgresql.crt")
        key = (key or existing("postgresql.key")) if certificate else key
    if bool(certificate) != bool(key):
        raise ConnectionDetailsError(
            "the DSN's sslcert and sslkey must be given together; name both files"
        )
    lowest, highest = _versions(pairs)
    return Tls(mode, roots, certificate, key, shows, lowest, highest, direct == "direct")


def _refuse_revocation_lists(environment: Mapping[str, str], own: str | None) -> None:
    for name in ("sslcrl", "sslcrldir"):
        if value := environment.get(REFUSED_FROM_ENVIRONMENT[name]):
            refuse(name, value, f"{REFUSED_FROM_ENVIRONMENT[name]} in the environment")
    if own:
        refuse("sslcrl", own, f"the file {own}")


def _versions(pairs: Mapping[str, str]) -> tuple[str | None, str | None]:
    """The lowest and the highest version of TLS; nothing below 1.2 is ever spoken."""
    lowest, highest = (pairs.get(f"ssl_{end}_protocol_version") for end in ("min", "max"))
    for name, value in (
        ("ssl_min_protocol_version", lowest),
        ("ssl_max_protocol_version", highest),
    ):
        if value:
            choice(name, value, *_VERSIONS)
    if highest in ("TLSv1", "TLSv1.1"):
        raise ConnectionDetailsError(
            "the DSN's ssl_max_protocol_version is below TLSv1.2, which is the lowest that is"
            " spoken; take TLSv1.2 or leave it out"
        )
    if (lowest, highest) == ("TLSv1.3", "TLSv1.2"):
        raise ConnectionDetailsError(
            "the DSN's ssl_min_protocol_version is above its ssl_max_protocol_version; swap them"
        )
    return (lowest if lowest == "TLSv1.3" else None), highest


def _keepalive(pairs: Mapping[str, str]) -> Keepalive:
    standard = Keepalive()

    def count(name: str, default: int) -> int:
        return max(0, whole(name, pairs[name])) if name in pairs else default

    return Keepalive(
        on=whole("keepalives", pairs.get("keepalives", "1")) != 0,
        idle=count("keepalives_idle", standard.idle),
        interval=count("keepalives_interval", standard.interval),
        count=count("keepalives_count", standard.count),
        user_timeout=count("tcp_user_timeout", standard.user_timeout),
    )


def _connect_timeout(pairs: Mapping[str, str]) -> int:
    """Seconds for one host. Without end, as 0 is in libpq, nothing here waits."""
    seconds = whole("connect_timeout", pairs.get("connect_timeout", "0"))
    return max(2, seconds) if seconds > 0 else CONNECT_SECONDS
