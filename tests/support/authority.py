"""Certificates that are made when a test runs, with OpenSSL's program."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]


@dataclass(frozen=True)
class Authority:
    """One that signs; everything it makes is in its directory."""

    directory: Path
    name: str

    @classmethod
    def make(cls, directory: Path, name: str) -> Authority:
        authority = cls(directory, name)
        _openssl(
            "req", "-x509", *_KEY, "-days", "30", "-subj", f"/CN={name}",
            "-keyout", directory / f"{name}.key", "-out", authority.certificate,
        )  # fmt: skip
        return authority

    @property
    def certificate(self) -> Path:
        return self.directory / f"{self.name}.pem"

    def sign(self, name: str, common: str, *hosts: str, days: int = 30) -> tuple[Path, Path]:
        """A certificate and its key; fewer than 0 days have passed already."""
        made, key = self.directory / f"{name}.pem", self.directory / f"{name}.key"
        request, names = made.with_suffix(".csr"), made.with_suffix(".names")
        _openssl("req", *_KEY, "-subj", f"/CN={common}", "-keyout", key, "-out", request)
        listed = ",".join(f"DNS:{host}" for host in hosts)
        names.write_text(f"subjectAltName={listed}\n" if hosts else "basicConstraints=CA:FALSE\n")
        _openssl(
            "x509", "-req", "-in", request, "-CA", self.certificate, "-CAcreateserial",
            "-CAkey", self.certificate.with_suffix(".key"), "-days", str(days),
            "-extfile", names, "-out", made,
        )  # fmt: skip
        key.chmod(0o600)
        return made, key


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)
