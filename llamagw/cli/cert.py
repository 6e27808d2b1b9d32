"""
The command `cert`: makes a certificate for a gateway in one's own network.

It is signed by its own key, so that no authority is needed, and each client has to be told of it.
Nothing of the gateway is asked or changed.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import tempfile
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, NamedTuple

import click

from llamagw.cli import show

if TYPE_CHECKING:
    from cryptography.x509 import GeneralName

#: Days that a certificate is valid; Apple's systems take none that is valid for longer (support
#: article 103769).
MOST_DAYS = 825

#: Names that a certificate may have here, and characters of one (RFC 1035, 2.3.4).
_NAMES, _NAME = 100, 253

#: An hour in which the clocks of clients may be slow.
_EARLY = timedelta(hours=1)

_HOST = re.compile(r"(\*\.)?[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_-]+)*")


class Made(NamedTuple):
    """
    A certificate and its key, both as PEM.

    :ivar fingerprint: SHA-256, as browsers show it
    :ivar until: the end of its validity
    """

    cert: bytes
    key: bytes
    fingerprint: str
    until: datetime


@click.group(
    epilog="""\b
Examples:
  llamagw cert self --name llm.lan"""
)
def cert() -> None:
    """Make certificates for TLS."""


@cert.command(
    "self",
    epilog="""\b
Examples:
  llamagw cert self
  llamagw cert self --name llm.lan --name 192.168.1.20
  llamagw cert self --out /etc/llamagw --force""",
)
@click.option(
    "--name",
    "names",
    metavar="HOST",
    multiple=True,
    help="One more name or address by which clients reach this machine; may be repeated.",
)
@click.option(
    "--out",
    metavar="FOLDER",
    default=".",
    show_default=True,
    type=click.Path(file_okay=False),
    help="Where cert.pem and key.pem are written.",
)
@click.option(
    "--days",
    type=click.IntRange(1, MOST_DAYS),
    default=MOST_DAYS,
    show_default=True,
    help="How long it is valid.",
)
@click.option("-f", "--force", is_flag=True, help="Overwrite files that are there.")
def self_signed(names: tuple[str, ...], out: str, days: int, force: bool) -> None:
    """
    Make a self-signed certificate, for a network of one's own.

    It is for localhost, this machine's name and addresses, and each --name. Only who runs this can
    read its key. Each client has to be told to trust it: give it cert.pem, never key.pem.
    """
    hosts = checked([*names, *machine_names()])
    folder = os.path.abspath(out)
    paths = [os.path.join(folder, name) for name in ("cert.pem", "key.pem")]
    for path in paths:
        if os.path.lexists(path) and not force:
            raise click.ClickException(
                f"{show.plain(path)} is there already; --out another folder, or --force"
            )
    made = make(hosts, days)
    try:
        os.makedirs(folder, exist_ok=True)
        # The key first: a gateway that sees the new certificate then finds its key as well.
        _write(paths[1], made.key, 0o600)
        _write(paths[0], made.cert, 0o644)
    except OSError as error:
        raise click.ClickException(f"{show.plain(folder)}: {error.strerror}") from None
    click.echo(_told(made, hosts, *paths))


def _told(made: Made, hosts: list[str], cert: str, key: str) -> str:
    """What was made, and what to do with it."""
    lines = [
        f"{show.plain(cert)}",
        f"{show.plain(key)} (keep it to this machine)",
        show.note(f"  for {', '.join(hosts)}", 80, None),
        f"  valid until {made.until:%Y-%m-%d}",
        "  SHA-256 fingerprint:",
        f"    {made.fingerprint[:48]}",
        f"    {made.fingerprint[48:]}",
        "",
        "In the configuration, at the top:",
        "",
        'listen_addr: ":8443"',
        "tls:",
        f"  cert: {_yaml(cert)}",
        f"  key: {_yaml(key)}",
        "",
        "Then, from this machine:",
        "",
        f"curl --cacert {_shell(cert)} https://localhost:8443/health",
    ]
    return "\n".join(lines)


def _yaml(path: str) -> str:
    plain = re.fullmatch(r"/[\w./+@-]+", path, re.ASCII)
    return path if plain else "'" + path.replace("'", "''") + "'"


def _shell(path: str) -> str:
    import shlex

    return shlex.quote(path)


def machine_names() -> list[str]:
    """Under which names and addresses this machine is reached; nothing is looked up."""
    import psutil

    found = ["localhost", "127.0.0.1", "::1"]
    name = socket.gethostname().lower()
    if _HOST.fullmatch(name):
        # Behind .local it is found by mDNS.
        found += [name] if "." in name else [name, f"{name}.local"]
    for addresses in psutil.net_if_addrs().values():
        for one in addresses:
            if one.family in (socket.AF_INET, socket.AF_INET6):
                address = ipaddress.ip_address(one.address.partition("%")[0])
                if not (address.is_link_local or address.is_loopback):
                    found.append(str(address))
    return found


def checked(hosts: Iterable[str]) -> list[str]:
    """
    Names and addresses as a certificate has them, each once.

    :param hosts: as given; a name may have a ``*.`` in front
    :raises click.BadParameter: for one that is neither, and for too many
    """
    found: dict[str, None] = {}
    for host in hosts:
        text = host.strip().strip("[]")
        try:
            text = str(ipaddress.ip_address(text))
        except ValueError:
            text = _ascii(host.strip()).lower()
        found[text] = None
    if len(found) > _NAMES:
        raise click.BadParameter(f"over {_NAMES} names", param_hint="--name")
    return list(found)


def _ascii(host: str) -> str:
    try:
        text = host.encode("idna").decode() if not host.isascii() else host
    except UnicodeError:
        text = ""
    # Of digits and dots only, it would be meant for an address.
    if not _HOST.fullmatch(text) or len(text) > _NAME or re.fullmatch(r"[\d.]+", text):
        raise click.BadParameter(
            f"{show.plain(host[:_NAME])!r} is neither a host name nor an IP address; "
            "write one such as llm.lan or 192.168.1.20, without https:// and port",
            param_hint="--name",
        )
    return text


def make(hosts: list[str], days: int) -> Made:
    """
    Make a key (EC, P-256) and a certificate that it signs itself.

    :param hosts: from `checked`; the first that is a name becomes the common name
    :param days: that it is valid, from now on
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    names = [*_general_names(hosts)]
    named = (host for host in hosts if _HOST.fullmatch(host) and len(host) <= 64)
    common = next(named, "llamagw")
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])
    begin = datetime.now(timezone.utc) - _EARLY
    public = key.public_key()
    identifier = x509.SubjectKeyIdentifier.from_public_key(public)
    signs_only = dict.fromkeys(
        (
            "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
            "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
        ),
        False,
    )  # fmt: skip
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        # No authority: whoever trusts it trusts it for these names alone.
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(digital_signature=True, **signs_only), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(identifier, critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    return Made(
        cert=certificate.public_bytes(serialization.Encoding.PEM),
        key=key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
        fingerprint=certificate.fingerprint(hashes.SHA256()).hex(":").upper(),
        until=certificate.not_valid_after_utc,
    )


def _general_names(hosts: list[str]) -> Iterator[GeneralName]:
    from cryptography import x509

    for host in hosts:
        try:
            yield x509.IPAddress(ipaddress.ip_address(host))
        except ValueError:
            yield x509.DNSName(host)


def _write(path: str, content: bytes, mode: int) -> None:
    """Write a file that is whole as soon as it is there, and never readable by more than `mode`."""
    file, temporary = tempfile.mkstemp(dir=os.path.dirname(path))
    try:
        with open(file, "wb") as writer:
            writer.write(content)
            os.fchmod(file, mode)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
