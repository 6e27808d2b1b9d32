"""A certification authority of one's own, which issues what a test needs."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


class Authority:
    """A certification authority of one's own."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.path = folder / f"{name}.pem"
        self._certificate(self._name, self._key, self.path, ca=True)

    def issue(self, *names: str, days: int = 1) -> tuple[Path, Path]:
        """The paths of a key and its certificate for these hosts."""
        stem = self.path.stem + "-" + names[0]
        key_path, path = self._folder / f"{stem}.key", self._folder / f"{stem}.crt"
        key = ec.generate_private_key(ec.SECP256R1())
        kind = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        key_path.write_bytes(key.private_bytes(serialization.Encoding.PEM, *kind))
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
        self._certificate(subject, key, path, *names, days=days)
        return key_path, path

    def _certificate(
        self, subject: x509.Name, key: Any, path: Path, *names: str, ca: bool = False, days: int = 1
    ) -> None:
        now, day = datetime.datetime.now(datetime.timezone.utc), datetime.timedelta(days=1)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 10 * day)
            .not_valid_after(now + days * day)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), False
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        )
        if names:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([_general_name(name) for name in names]), False
            )
        made = builder.sign(self._key, hashes.SHA256())
        path.write_bytes(made.public_bytes(serialization.Encoding.PEM))


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
