"""The two ways to write a connection string, taken apart by libpq's rules.

No message here quotes the string: what is wrong with one is most often a password that holds a
reserved character, and then any part of it may be the password.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from urllib.parse import quote, unquote_to_bytes, urlencode

from eventsource.dsn.parameters import KNOWN
from eventsource.dsn.value import startup_options
from eventsource.errors import ConnectionDetailsError

_SCHEMES = ("postgresql://", "postgres://")
_BAD_PERCENT = re.compile(r"%(?![0-9a-fA-F]{2})|%00")
_RESERVED = "write / ? # @ : % and & in user, password and database as %2F %3F %23 %40 %3A %25 %26"

#: One ``keyword = value`` of the second form; the value plain or in single quotes.
_PAIR = re.compile(
    r"\s*(?P<name>[^\s=]+)\s*=\s*(?:'(?P<quoted>(?:[^'\\]|\\.)*)'(?=\s|$)|(?P<plain>(?:\\.|[^\s\\])*))",
    re.DOTALL,
)


def pairs_of(text: str) -> dict[str, str]:
    """Every parameter that the string names, decoded, under its own name.

    Several hosts are one value with commas, as in libpq; ``port`` has as many.

    Raises:
        ConnectionDetailsError: it is neither a URI nor a list of ``keyword=value``.
    """
    for scheme in _SCHEMES:
        if text.startswith(scheme):
            return _uri(text.removeprefix(scheme))
    if "://" in text or "=" not in text:
        raise ConnectionDetailsError(
            "the DSN is neither a URI (postgresql://user:password@host/database) nor a list of"
            " keyword=value (host=… user=… dbname=…)"
        )
    return _keywords(text)


def is_uri(text: str) -> bool:
    """Whether the string is of the first form."""
    return text.startswith(_SCHEMES)


def uri_of(pairs: Mapping[str, str]) -> str:
    """The URI that names these parameters; what libpq does not know is a setting of the server."""
    query = {name: value for name, value in pairs.items() if name in KNOWN and value}
    settings = {name: value for name, value in pairs.items() if name not in KNOWN}
    if settings:
        options = startup_options({"options": query.pop("options", ""), **settings})
        query["options"] = options
    credentials = quote(query.pop("user", ""), safe="")
    if secret := query.pop("password", ""):
        credentials += ":" + quote(secret, safe="")
    database = quote(query.pop("dbname", ""), safe="")
    text = f"postgresql://{credentials}@/{database}"
    return text + ("?" + urlencode(query, quote_via=quote, safe="") if query else "")


def _uri(rest: str) -> dict[str, str]:
    authority, slash, path = rest.partition("/")
    query = ""
    credentials, at, hosts = authority.rpartition("@")
    if not slash and "?" in hosts:
        hosts, _, query = hosts.partition("?")
    if "?" in credentials or "?" in hosts:
        raise ConnectionDetailsError(f"the DSN has a question mark before its host; {_RESERVED}")
    if slash:
        path, _, query = path.partition("?")
    if "@" in path:
        # Read to the letter this is a host with half a password as its port.
        raise ConnectionDetailsError(f"the DSN has an unescaped @ after its host: {_RESERVED}")
    pairs: dict[str, str] = {}
    if at:
        user, colon, password = credentials.partition(":")
        pairs["user"] = _decoded(user)
        if colon:
            pairs["password"] = _decoded(password)
    pairs.update(_hosts(hosts))
    if path:
        pairs["dbname"] = _decoded(path)
    secret = False
    for name, value in _query(query):
        if "@" in name or ("@" in value and name not in KNOWN):
            raise ConnectionDetailsError(f"the DSN has an unescaped @ after its host: {_RESERVED}")
        secret = _refuse_remains(name, secret)
        pairs["dbname" if name == "database" else name] = value
    return {name: value for name, value in pairs.items() if value}


def _hosts(text: str) -> dict[str, str]:
    hosts, ports = [], []
    for each in text.split(",") if text else []:
        name, port = each, ""
        if each.startswith("["):
            name, bracket, port = each[1:].partition("]")
            if not bracket or (port and not port.startswith(":")):
                raise ConnectionDetailsError(
                    f"the DSN's host has a bracket that is not closed; {_RESERVED}"
                )
            port = port.removeprefix(":")
        elif ":" in each:
            name, _, port = each.partition(":")
        hosts.append(_decoded(name))
        ports.append(_decoded(port))
    return {"host": ",".join(hosts), "port": ",".join(ports) if any(ports) else ""}


def _query(text: str) -> Iterator[tuple[str, str]]:
    for each in text.split("&") if text else []:
        name, equals, value = each.partition("=")
        if not equals or not name:
            raise ConnectionDetailsError(
                "the DSN's part after the question mark is not name=value&name=value;"
                " write & inside a value as %26"
            )
        name, value = _decoded(name), _decoded(value)
        if (name, value) == ("ssl", "true"):
            name, value = "sslmode", "require"
        yield name, value


def _keywords(text: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    at, secret = 0, False
    while text[at:].strip():
        found = _PAIR.match(text, at)
        if found is None or (found["quoted"] is None and found["plain"].startswith("'")):
            raise ConnectionDetailsError(
                "the DSN is not a list of keyword=value: put a value with blanks into single"
                " quotes, and write ' and \\ within it as \\' and \\\\"
            )
        value = found["plain"] if found["quoted"] is None else found["quoted"]
        secret = _refuse_remains(found["name"], secret)
        pairs[found["name"]] = re.sub(r"\\(.)", r"\1", value, flags=re.DOTALL)
        at = found.end()
    return {name: value for name, value in pairs.items() if value}


def _refuse_remains(name: str, after_a_secret: bool) -> bool:
    """Refuse a name that may be the rest of a password; True from the password on."""
    # What follows an unescaped & or blank of a password would be sent to the server as the name
    # of a setting, and come back in its error.
    if after_a_secret and name not in KNOWN:
        raise ConnectionDetailsError(
            "the DSN has a parameter after the password that libpq does not know; if it is a part"
            " of the password, write & as %26 in a URI and put the password into single quotes"
            " elsewhere; if it is a setting of the server, name it before the password"
        )
    return after_a_secret or name in ("password", "sslpassword")


def _decoded(text: str) -> str:
    if _BAD_PERCENT.search(text):
        raise ConnectionDetailsError(
            "the DSN has a % that is not followed by two hexadecimal digits; write it as %25"
        )
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        raise ConnectionDetailsError(
            "the DSN's percent-encoded bytes are not UTF-8; encode its text as UTF-8"
        ) from None
