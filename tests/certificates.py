"""Certificates for servers and clients of a test, by the `openssl` of the machine."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from stockflow.embedded import ServerUnavailable

DAYS = "2"
_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


@dataclass(frozen=True)
class Certificate:
    """PEM files of a private key and its certificate."""

    key: Path
    certificate: Path

    def in_one_file(self) -> Path:
        """Both in one PEM file, as Kafka reads a key store."""
        both = self.key.with_suffix(".pem")
        both.write_text(self.key.read_text() + self.certificate.read_text())
        return both


class Authority:
    """Signs certificates; whoever trusts `certificate` trusts them."""

    def __init__(self, folder: Path, name: str = "test authority") -> None:
        """Make its own key and certificate in the folder.

        Raises:
            ServerUnavailable: there is no openssl.
        """
        if shutil.which("openssl") is None:
            raise ServerUnavailable("openssl is missing: install the package `openssl` of your distribution")
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._own = Certificate(folder / "authority.key", folder / "authority.crt")
        _openssl(
            *("req", "-x509", *_NEW_KEY, "-days", DAYS, "-subj", f"/CN={name}"),
            *("-keyout", str(self._own.key), "-out", str(self._own.certificate)),
        )

    @property
    def certificate(self) -> Path:
        """The file that others trust."""
        return self._own.certificate

    def sign(self, name: str, address: str = "127.0.0.1") -> Certificate:
        """A new key whose certificate says `CN=name` and is good for a server at this IP address, and for a client."""
        made = Certificate(self._folder / f"{name}.key", self._folder / f"{name}.crt")
        request, extensions = self._folder / f"{name}.csr", self._folder / f"{name}.ext"
        extensions.write_text(f"subjectAltName=IP:{address}\n")
        _openssl("req", "-new", *_NEW_KEY, "-subj", f"/CN={name}", "-keyout", str(made.key), "-out", str(request))
        _openssl(
            *("x509", "-req", "-in", str(request), "-days", DAYS, "-extfile", str(extensions), "-CAcreateserial"),
            *("-CA", str(self.certificate), "-CAkey", str(self._own.key), "-out", str(made.certificate)),
        )
        return made


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=30)
