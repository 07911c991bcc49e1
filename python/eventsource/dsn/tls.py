"""What asyncpg needs to speak TLS as a connection string says."""

from __future__ import annotations

import ssl
from typing import Any

from eventsource.dsn.value import Host, Tls
from eventsource.errors import ConnectionDetailsError

_VERSIONS = {"TLSv1.2": ssl.TLSVersion.TLSv1_2, "TLSv1.3": ssl.TLSVersion.TLSv1_3}


class _NamedContext(ssl.SSLContext):
    """Verifies the name that the string has, where asyncpg knows the address beside it only."""

    server_name: str | None = None

    def wrap_bio(self, *arguments: Any, **options: Any) -> ssl.SSLObject:
        if self.server_name is not None:
            options["server_hostname"] = self.server_name
        return super().wrap_bio(*arguments, **options)


def context(tls: Tls, host: Host) -> ssl.SSLContext:
    """A context of its own for each connection: files may have been renewed.

    Raises:
        ConnectionDetailsError: a file cannot be used.
    """
    made = _NamedContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = tls.mode == "verify-full"
    made.verify_mode = ssl.CERT_REQUIRED if tls.mode.startswith("verify") else ssl.CERT_NONE
    if host.address and host.name:
        made.server_name = host.name
    made.minimum_version = _VERSIONS[tls.lowest or "TLSv1.2"]
    if tls.highest:
        made.maximum_version = _VERSIONS[tls.highest]
    if tls.mode.startswith("verify"):
        if tls.roots == "system":
            made.load_default_certs(ssl.Purpose.SERVER_AUTH)
        else:
            _load("sslrootcert", tls.roots, lambda: made.load_verify_locations(cafile=tls.roots))
    if tls.certificate:
        # The third argument keeps OpenSSL from asking at the terminal.
        _load(
            "sslcert with sslkey",
            f"{tls.certificate}, {tls.key}",
            lambda: made.load_cert_chain(tls.certificate or "", tls.key, lambda: ""),
        )
    made.set_alpn_protocols(["postgresql"])
    return made


def _load(what: str, where: str | None, load: Any) -> None:
    try:
        load()
    except OSError as error:  # ssl.SSLError is one too
        reason = error.strerror or type(error).__name__
        raise ConnectionDetailsError(
            f"the DSN's {what} ({where}) cannot be used: {reason}; name a readable PEM file"
            " without a passphrase"
        ) from None
