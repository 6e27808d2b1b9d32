"""Promises of llamagw.net.certificates: what can be used is read, all else is told with its
file."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from llamagw.config import TlsEntry
from llamagw.net import TlsFault, read_tls
from llamagw.net.certificates import MOST_BYTES
from tests.support.authority import Authority


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def files(authority: Authority) -> TlsEntry:
    key, cert = authority.issue("localhost", "127.0.0.1", days=2)
    key.chmod(0o600)
    return TlsEntry(cert=str(cert), key=str(key))


def fault(files: TlsEntry) -> tuple[str, str]:
    with pytest.raises(TlsFault) as caught:
        read_tls(":8443", files)
    return caught.value.place, str(caught.value)


def changed(files: TlsEntry, **keys: str) -> TlsEntry:
    return TlsEntry(**{"cert": files.cert, "key": files.key, **keys})  # type: ignore[arg-type]


def test_a_pair_is_read_and_told_without_a_warning(files: TlsEntry) -> None:
    tls = read_tls("[::1]:8443", files)
    assert tls is not None
    assert tls.where == r"tcp6:8443:interface=\:\:1"
    assert tls.told.startswith("certificate of localhost, 127.0.0.1, valid until 20")
    assert not tls.warnings
    assert list(tls.stamps) == [files.cert, files.key]


def test_without_tls_nothing_is_read() -> None:
    assert read_tls(":8000", None) is None


def test_one_file_may_have_both(files: TlsEntry, tmp_path: Path) -> None:
    both = tmp_path / "both.pem"
    both.write_bytes(Path(files.key).read_bytes() + Path(files.cert).read_bytes())
    both.chmod(0o600)
    tls = read_tls(":8443", TlsEntry(cert=str(both), key=str(both)))
    assert tls is not None
    assert not tls.warnings


@pytest.mark.parametrize("name", ["cert", "key", "client_ca"])
def test_a_file_that_cannot_be_used_is_told_with_its_key(
    files: TlsEntry, tmp_path: Path, name: str
) -> None:
    what = "private key" if name == "key" else "certificate"
    kind = "PRIVATE KEY" if name == "key" else "CERTIFICATE"
    path = tmp_path / "x.pem"
    wrong = changed(files, **{name: str(path)})

    assert fault(wrong) == (f"tls.{name}", f"there is no file {path}")
    path.write_text("nothing")
    assert fault(wrong) == (f"tls.{name}", f"{path} has no {what} in it (PEM is expected)")
    path.write_text(f"-----BEGIN {kind}-----\nbroken\n-----END {kind}-----\n")
    assert fault(wrong) == (f"tls.{name}", f"{path} has a {what} in it that cannot be used")
    path.write_bytes(b" " * (MOST_BYTES + 1))
    assert fault(wrong)[1] == f"{path} is over 1 MB; that is no PEM file"
    path.unlink()
    os.mkfifo(path)
    assert fault(wrong)[1] == f"{path} is not a file; a PEM file is needed"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_told(files: TlsEntry) -> None:
    os.chmod(files.key, 0)
    assert fault(files) == ("tls.key", f"{files.key} cannot be read: Permission denied")


def test_files_that_are_mixed_up_are_told(files: TlsEntry) -> None:
    place, said = fault(TlsEntry(cert=files.key, key=files.cert))
    assert (place, said) == (
        "tls.cert",
        f"{files.key} has no certificate in it (PEM is expected); it has a private key",
    )
    place, said = fault(changed(files, key=files.cert))
    assert place == "tls.key"
    assert said.endswith("it has a certificate")


def test_a_key_of_another_certificate_is_told(
    files: TlsEntry, authority: Authority, tmp_path: Path
) -> None:
    key, cert = authority.issue("elsewhere")
    mixed = changed(files, key=str(key))
    assert fault(mixed) == ("tls.key", f"{key} is not the key of the certificate {files.cert}")
    # Where it is in the chain, its place is what is wrong.
    chain = tmp_path / "chain.pem"
    chain.write_bytes(Path(files.cert).read_bytes() + cert.read_bytes())
    assert fault(changed(mixed, cert=str(chain)))[1] == (
        f"{key} is the key of certificate 2 in {chain}; it must be the first one there"
    )


def test_a_key_with_a_passphrase_is_told_with_what_removes_it(files: TlsEntry) -> None:
    path = Path(files.key)
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    place, said = fault(files)
    assert place == "tls.key"
    assert f"{path} is encrypted" in said
    assert f"openssl pkey -in {path} -out" in said


def test_an_expired_certificate_and_an_open_key_are_warnings(
    authority: Authority, tmp_path: Path
) -> None:
    key, cert = authority.issue("localhost", days=-1)
    key.chmod(0o644)
    tls = read_tls(":8443", TlsEntry(cert=str(cert), key=str(key)))
    assert tls is not None
    expired, readable = tls.warnings
    assert expired.startswith(f"the certificate {cert} has expired on 20")
    assert readable.endswith(f"can read the private key {key}: chmod o= {key}")


def test_a_stamp_differs_once_a_file_is_another(files: TlsEntry, tmp_path: Path) -> None:
    before = read_tls(":8443", files)
    shutil.copy(files.cert, tmp_path / "same.pem")
    os.replace(tmp_path / "same.pem", files.cert)
    after = read_tls(":8443", files)
    assert before is not None
    assert after is not None
    assert before.stamps != after.stamps


def test_an_ssl_address_is_the_same_one_as_with_the_key(files: TlsEntry) -> None:
    """So that a reload changes from one to the other."""
    for string, address in (
        ("ssl:8443", ":8443"),
        ("ssl:8443:interface=127.0.0.1", "127.0.0.1:8443"),
        (r"ssl:8443:interface=\:\:1", "[::1]:8443"),
    ):
        old = read_tls(f"{string}:privateKey={files.key}:certKey={files.cert}", None)
        new = read_tls(address, files)
        assert old is not None
        assert new is not None
        assert old.where == new.where
