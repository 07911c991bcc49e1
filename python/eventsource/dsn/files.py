"""Service files and password files, by libpq's rules."""

from __future__ import annotations

import logging
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from eventsource.errors import ConnectionDetailsError

if TYPE_CHECKING:
    from eventsource.dsn.value import Host

_log = logging.getLogger("eventsource.dsn")


def home(environment: Mapping[str, str]) -> Path | None:
    """The user's own directory, where there is one."""
    if environment.get("HOME"):
        return Path(environment["HOME"])
    try:
        return Path.home()
    except (RuntimeError, KeyError):
        return None


def service(name: str, given: str | None, environment: Mapping[str, str]) -> dict[str, str]:
    """The parameters of a service: of the file that is named, the user's, or the system's.

    Raises:
        ConnectionDetailsError: no file has it, or it is not name=value.
    """
    places = [Path(given)] if given else []
    own = home(environment)
    if not given and own is not None:
        places.append(own / ".pg_service.conf")
    if system := environment.get("PGSYSCONFDIR"):
        places.append(Path(system) / "pg_service.conf")
    for place in places:
        found = _section(place, name)
        if found is not None:
            return found
    looked = ", ".join(str(place) for place in places) or "no file"
    raise ConnectionDetailsError(
        f"the service {name!r} is in none of the service files ({looked}): define it there, name"
        " another file in PGSERVICEFILE, or write host, user and dbname into the DSN"
    )


def _section(place: Path, name: str) -> dict[str, str] | None:
    try:
        lines = place.read_text(encoding="utf-8").splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ConnectionDetailsError(
            f"the service file {place} cannot be read ({type(error).__name__}); mend it"
        ) from None
    found: dict[str, str] | None = None
    for number, line in enumerate((line.strip() for line in lines), 1):
        if line.startswith("[") and line.endswith("]"):
            if found is not None:
                break
            found = {} if line[1:-1] == name else None
        elif found is not None and line and not line.startswith("#"):
            key, equals, value = line.partition("=")
            if not equals or key.strip() == "service":
                raise ConnectionDetailsError(
                    f"line {number} of the service file {place} is not name=value; mend it"
                )
            found.setdefault("dbname" if key.strip() == "database" else key.strip(), value.strip())
    return found


def password(
    place: Path, named: bool, hosts: tuple[Host, ...], database: str, user: str
) -> str | None:
    """The password that the file has for all of these hosts, None when it has none.

    Raises:
        ConnectionDetailsError: the file was named and may not be used, or the hosts have different
            ones.
    """
    try:
        mode = place.stat().st_mode
        if not stat.S_ISREG(mode) or mode & (stat.S_IRWXG | stat.S_IRWXO):
            reason = f"the password file {place} is not a file that only its owner may read"
            if named:
                raise ConnectionDetailsError(f"{reason}: chmod 0600 {place}")
            _log.warning("%s and is left out: chmod 0600 %s", reason, place)
            return None
        lines = place.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        if named and not isinstance(error, FileNotFoundError):
            raise ConnectionDetailsError(
                f"the password file {place} cannot be read ({type(error).__name__}); mend it"
            ) from None
        return None
    entries = [_fields(line) for line in lines if line.strip() and not line.startswith("#")]
    found = {_password_for(host, database, user, entries) for host in hosts}
    if len(found) > 1:
        raise ConnectionDetailsError(
            f"the password file {place} has not the same password for all hosts of the DSN; give"
            f" {user!r} one password on all of them, or pass password="
        )
    return found.pop()


def _password_for(host: Host, database: str, user: str, entries: list[list[str]]) -> str | None:
    names = {host.name or host.address, *(["localhost"] if host.is_socket else [])}
    for fields in entries:
        if len(fields) < 5:
            continue
        where, port, name, who, secret = fields[:5]
        if (
            (where == "*" or where in names)
            and port in ("*", str(host.port))
            and name in ("*", database)
            and who in ("*", user)
        ):
            return secret
    return None


def _fields(line: str) -> list[str]:
    """What stands between the colons; a backslash takes the next sign as it is."""
    fields, signs = [""], iter(line)
    for sign in signs:
        if sign == ":":
            fields.append("")
        else:
            fields[-1] += next(signs, "") if sign == "\\" else sign
    return fields
