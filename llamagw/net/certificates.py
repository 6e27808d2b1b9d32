"""
Reading what TLS is spoken with: the files of ``tls:``, or those of an ``ssl:`` address.

All is read and checked before anything listens, so that an error names its file. Nothing here needs
a reactor or has a side effect, so it may run in a thread; OpenSSL is imported by the first that is
read. Listening is in tls.py, reading again in renewal.py; certificates of backends are verified in
connect.py.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from twisted.internet import endpoints

from llamagw.config import TlsEntry, cannot_listen, endpoint_string
from llamagw.text import harmless

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

#: Bytes of a file at most; a chain takes some 5 kB, a system's whole store of authorities 0.2 MB.
MOST_BYTES = 1 << 20

#: Characters of a name in a certificate that are shown, and how many names.
_NAME, _NAMES = 64, 3

_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
_KEY = re.compile(rb"-----BEGIN ([A-Z ]*PRIVATE KEY)-----.*?-----END \1-----", re.DOTALL)

#: By which a file is known to have changed: its modification, size and inode; None if it is gone.
Stamp: TypeAlias = tuple[int, int, int] | None


class TlsFault(ValueError):
    """
    A file, or an address, that TLS cannot be spoken with.

    :param place: the key of the configuration
    """

    def __init__(self, place: str, message: str) -> None:
        super().__init__(message)
        self.place = place


class Tls(NamedTuple):
    """
    What TLS is spoken with at an address.

    :ivar where: the endpoint string of the address, without TLS
    :ivar options: Twisted's CertificateOptions: private key, certificate, chain, whose clients
    :ivar told: the certificate in words; "" if it came with an ``ssl:`` address
    :ivar warnings: what is wrong with the files, and does not keep them from being used
    :ivar stamps: of the files, by their paths; empty for an ``ssl:`` address
    """

    where: str
    options: Any
    told: str = ""
    warnings: Sequence[str] = ()
    stamps: dict[str, Stamp] = {}  # noqa: RUF012 (never changed)


def read_tls(listen_addr: str, files: TlsEntry | None) -> Tls | None:
    """
    Read what TLS is spoken with, and check that it can be used.

    :param listen_addr: anything that `llamagw.config.endpoint_string` takes
    :param files: the value of ``tls:``
    :return: None if clients connect without TLS
    :raises TlsFault: if it cannot be used; the message names the file
    """
    text = endpoint_string(listen_addr)
    if text.startswith("ssl:"):
        return _of_string(listen_addr, text)
    return None if files is None else _of_files(text, files)


def stamps_of(files: TlsEntry) -> dict[str, Stamp]:
    """
    By what the files are known to have changed.

    :param files: the value of ``tls:``
    :return: by path
    """
    return {path: _stamp(path) for path in (files.cert, files.key, files.client_ca) if path}


def _stamp(path: str) -> Stamp:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


# The files of `tls:`.


def _of_files(where: str, files: TlsEntry) -> Tls:
    from OpenSSL.crypto import X509, PKey
    from twisted.internet import ssl

    # Before they are read: what changes meanwhile is seen the next time.
    stamps = stamps_of(files)
    chain = _certificates("tls.cert", files.cert)
    key, mode = _private_key("tls.key", files.key)
    first = chain[0]
    if _public(key.public_key()) != _public(first.public_key()):
        raise TlsFault("tls.key", _fits_another(key, chain, files))
    authorities = [] if files.client_ca is None else _certificates("tls.client_ca", files.client_ca)
    roots = [ssl.Certificate(X509.from_cryptography(one)) for one in authorities]
    newest = ssl.TLSVersion.TLSv1_3 if files.min_version == "1.3" else ssl.TLSVersion.TLSv1_2
    options = ssl.CertificateOptions(
        privateKey=PKey.from_cryptography_key(key),
        certificate=X509.from_cryptography(first),
        extraCertChain=[X509.from_cryptography(one) for one in chain[1:]],
        trustRoot=ssl.trustRootFromCertificates(roots) if roots else None,
        raiseMinimumTo=newest,
    )
    try:
        context = options.getContext()  # OpenSSL checks them only here
        for one in roots:
            # By these, a client that has several certificates knows which one to show.
            context.add_client_ca(one.original)
    except Exception as error:  # OpenSSL's own
        raise TlsFault("tls.cert", f"{files.cert} cannot be used: {_words(error)}") from error
    return Tls(
        where,
        options,
        told=f"certificate of {_subject(first)}, valid until {_day(first.not_valid_after_utc)}",
        warnings=[*_out_of_date(first, files.cert), *_open_key(mode, files.key)],
        stamps=stamps,
    )


def _read(place: str, path: str) -> tuple[bytes, int]:
    """
    Read a file.

    :param place: the key that names it
    :return: its content and its mode
    :raises TlsFault: if it cannot be read
    """
    try:
        # A pipe without a writer would block.
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            mode = os.fstat(file).st_mode
            if not stat.S_ISREG(mode):
                raise TlsFault(place, f"{path} is not a file; a PEM file is needed")
            with open(file, "rb", closefd=False) as reader:
                content = reader.read(MOST_BYTES + 1)
        finally:
            os.close(file)
    except FileNotFoundError:
        raise TlsFault(place, f"there is no file {path}") from None
    except OSError as error:
        raise TlsFault(place, f"{path} cannot be read: {error.strerror}") from error
    if len(content) > MOST_BYTES:
        raise TlsFault(place, f"{path} is over {MOST_BYTES >> 20} MB; that is no PEM file")
    return content, mode


def _certificates(place: str, path: str) -> list[Certificate]:
    from cryptography import x509

    content, _ = _read(place, path)
    found = _CERTIFICATE.findall(content)
    if not found:
        hint = "; it has a private key" if _KEY.search(content) else ""
        raise TlsFault(place, f"{path} has no certificate in it (PEM is expected){hint}")
    try:
        return [x509.load_pem_x509_certificate(pem) for pem in found]
    except ValueError as error:
        raise TlsFault(place, f"{path} has a certificate in it that cannot be used") from error


def _private_key(place: str, path: str) -> tuple[Any, int]:
    """The key in a file, and the mode of that."""
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    content, mode = _read(place, path)
    found = _KEY.search(content)
    if found is None:
        hint = "; it has a certificate" if _CERTIFICATE.search(content) else ""
        raise TlsFault(place, f"{path} has no private key in it (PEM is expected){hint}")
    try:
        return load_pem_private_key(found[0], None), mode
    except TypeError:
        raise TlsFault(
            place,
            f"{path} is encrypted, and nobody is there to be asked for its passphrase; "
            f"openssl pkey -in {path} -out NEW writes it without one",
        ) from None
    except Exception as error:  # ValueError, and cryptography's own
        raise TlsFault(place, f"{path} has a private key in it that cannot be used") from error


def _public(key: Any) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    found: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return found


def _fits_another(key: Any, chain: list[Certificate], files: TlsEntry) -> str:
    """What is wrong when the key is not that of the first certificate."""
    for number, one in enumerate(chain[1:], 2):
        if _public(key.public_key()) == _public(one.public_key()):
            return (
                f"{files.key} is the key of certificate {number} in {files.cert}; "
                "it must be the first one there"
            )
    return f"{files.key} is not the key of the certificate {files.cert}"


def _subject(certificate: Certificate) -> str:
    """Whom a certificate is for, in words."""
    names = alternative_names(certificate) or common_names(certificate)
    shown = [harmless(name, _NAME) for name in names[:_NAMES]]
    more = f" and {len(names) - _NAMES} more" if len(names) > _NAMES else ""
    return f"{', '.join(shown)}{more}" if shown else "nobody in particular"


def alternative_names(certificate: Certificate) -> list[str]:
    """
    The alternative names of a certificate's subject: DNS names, e-mail addresses, URIs, addresses.

    :param certificate: one of cryptography's
    """
    from cryptography import x509

    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return []
    texts = (x509.DNSName, x509.RFC822Name, x509.UniformResourceIdentifier, x509.IPAddress)
    return [str(name.value) for name in found if isinstance(name, texts)]


def common_names(certificate: Certificate) -> list[str]:
    """The common names of a certificate's subject; one or none, as a rule."""
    from cryptography.x509.oid import NameOID

    try:
        found = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    except ValueError:
        return []
    return [str(name.value) for name in found]


def _out_of_date(certificate: Certificate, path: str) -> list[str]:
    now = datetime.now(timezone.utc)
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if end < now:
        return [f"the certificate {path} has expired on {_day(end)}; clients refuse it"]
    if now < begin:
        return [f"the certificate {path} is valid from {_day(begin)} on; clients refuse it"]
    return []


def _open_key(mode: int, path: str) -> list[str]:
    if not mode & (stat.S_IROTH | stat.S_IWOTH):
        return []
    return [f"everybody on this machine can read the private key {path}: chmod o= {path}"]


def _day(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d")


def _words(error: Exception) -> str:
    """What OpenSSL says: its errors are lists of triples."""
    [reasons, *_] = error.args or ([],)
    if isinstance(reasons, list) and reasons and isinstance(reasons[0], tuple):
        return "; ".join(str(reason[-1]) for reason in reasons)
    return str(error) or type(error).__name__


# An `ssl:` address.


def _of_string(listen_addr: str, text: str) -> Tls:
    read: list[Tls] = []
    try:
        endpoints.serverFromString(_Reads(), text).listen(None).addCallback(read.append)
        read[0].options.getContext()  # OpenSSL checks them only here
    except Exception as exc:  # TypeError for an unknown option, OSError, OpenSSL's own
        why = _fault_of_string(text) or str(exc) or type(exc).__name__
        raise TlsFault("listen_addr", str(cannot_listen(listen_addr, why))) from exc
    return read[0]


class _Reads:
    """A reactor for Twisted's parser of `ssl:` strings that returns what was parsed."""

    def listenSSL(
        self, port: int, factory: None, contextFactory: Any, backlog: int = 50, interface: str = ""
    ) -> Tls:
        # The address as `endpoint_string` would write it: so one can be renewed from the other.
        kind = "tcp6" if ":" in interface else "tcp"
        host = endpoints.quoteStringArgument(interface or "0.0.0.0")
        return Tls(f"{kind}:{port}:interface={host}", contextFactory)


#: The names of positional values in an `ssl:` string, in order.
_SSL_VALUES = ("kind", "port", "privateKey", "certKey", "sslmethod", "interface")


def _fault_of_string(text: str) -> str | None:
    """A message about the first file of an `ssl:` string that cannot be used; None if all can."""
    from OpenSSL.crypto import FILETYPE_PEM
    from twisted.internet.ssl import Certificate, KeyPair

    files = {"privateKey": "server.pem"}
    for number, part in enumerate(re.split(r"(?<!\\):", text)):
        name, named, value = part.partition("=")
        if not named and number < len(_SSL_VALUES):
            name, value = _SSL_VALUES[number], part
        files[name] = re.sub(r"\\(.)", r"\1", value)
    files.setdefault("certKey", files["privateKey"])

    def chain(content: bytes) -> None:
        for pem in _CERTIFICATE.findall(content) or [content]:
            Certificate.loadPEM(pem)

    loads: dict[str, Callable[[bytes], Any]] = {
        "privateKey": lambda content: KeyPair.load(content, FILETYPE_PEM),
        "certKey": Certificate.loadPEM,
        "extraCertChain": chain,
    }
    loaded = {}
    for name in filter(files.__contains__, loads):
        try:
            with open(files[name], "rb") as file:
                content = file.read()
        except OSError as error:
            return f"{name} {files[name]} cannot be read: {error.strerror}"
        try:
            loaded[name] = loads[name](content)
        except Exception:  # cryptography, pyOpenSSL and Twisted each have their own
            what = "private key" if name == "privateKey" else "certificate"
            return f"{name} {files[name]} has no {what} in it that can be used (PEM is expected)"
    if not loaded["privateKey"].matches(loaded["certKey"].getPublicKey()):
        return f"privateKey {files['privateKey']} is not the key of certKey {files['certKey']}"
    return None
