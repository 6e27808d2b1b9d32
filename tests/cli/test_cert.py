"""Promises of `llamagw cert self`: clients take the certificate, nobody else can read the key."""

from __future__ import annotations

import datetime
import ipaddress
import re
import socket
import ssl
import stat
from pathlib import Path

import psutil
import pytest
import yaml
from click.testing import CliRunner, Result
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from llamagw.cli.cert import MOST_DAYS, machine_names
from llamagw.cli.main import cli
from llamagw.config import TlsEntry
from llamagw.net import read_tls
from tests.net.test_tls import Both, Server
from tests.support.tls import TlsClient


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def cert(*arguments: str, status: int = 0) -> Result:
    done = CliRunner().invoke(cli, ["cert", "self", *arguments])
    assert done.exit_code == status, done.output
    return done


def names(path: Path) -> list[str]:
    made = x509.load_pem_x509_certificate(path.read_bytes())
    found = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [str(name.value) for name in found]


def test_it_is_for_this_machine_and_all_that_is_named(folder: Path) -> None:
    cert(
        "--name", "LLM.lan", "--name", "192.168.7.8", "--name", "[fd00::7]", "--name", "bücher.lan"
    )
    found = names(folder / "cert.pem")
    assert found[:4] == ["llm.lan", "192.168.7.8", "fd00::7", "xn--bcher-kva.lan"]
    assert {"localhost", "127.0.0.1", "::1"} < set(found)
    assert len(set(found)) == len(found)
    for addresses in psutil.net_if_addrs().values():
        for one in addresses:
            if one.family == socket.AF_INET and not one.address.startswith(("127.", "169.254.")):
                assert one.address in found


def test_its_key_is_a_p256_that_only_its_owner_can_read(folder: Path) -> None:
    cert()
    made = x509.load_pem_x509_certificate((folder / "cert.pem").read_bytes())
    key = made.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert key.curve.name == "secp256r1"
    assert stat.S_IMODE((folder / "key.pem").stat().st_mode) == 0o600
    assert stat.S_IMODE((folder / "cert.pem").stat().st_mode) == 0o644
    assert sorted(path.name for path in folder.iterdir()) == ["cert.pem", "key.pem"]


def test_it_is_valid_for_825_days_at_most(folder: Path) -> None:
    cert()
    made = x509.load_pem_x509_certificate((folder / "cert.pem").read_bytes())
    valid = made.not_valid_after_utc - made.not_valid_before_utc
    assert valid == datetime.timedelta(days=MOST_DAYS) == datetime.timedelta(days=825)
    assert made.not_valid_before_utc < datetime.datetime.now(datetime.timezone.utc)
    cert("--days", "826", "--force", status=2)
    cert("--days", "1", "--force")


def test_a_strict_client_takes_it(folder: Path) -> None:
    """As Python 3.13 verifies by default: RFC 5280 to the letter."""
    cert()
    files = TlsEntry(cert=str(folder / "cert.pem"), key=str(folder / "key.pem"))
    strict = ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
    wire = Server(files, Both()).connect()
    TlsClient(wire, folder / "cert.pem", strict=strict).shake_hands()


def test_what_it_prints_is_what_to_do(folder: Path) -> None:
    out = cert("--out", "a folder").output
    path = folder / "a folder" / "cert.pem"
    made = x509.load_pem_x509_certificate(path.read_bytes())
    fingerprint = "".join(re.findall(r"^    ([0-9A-F:]+)$", out, re.MULTILINE))
    assert fingerprint == made.fingerprint(hashes.SHA256()).hex(":").upper()
    block = out[out.index("listen_addr:") : out.index("Then,")]
    values = yaml.safe_load(block)
    tls = read_tls(values["listen_addr"], TlsEntry(**values["tls"]))
    assert tls is not None
    assert not tls.warnings
    assert f"curl --cacert '{path}'" in out
    assert f"valid until {made.not_valid_after_utc:%Y-%m-%d}" in out


def test_nothing_is_overwritten_without_force(folder: Path) -> None:
    for name in ("key.pem", "cert.pem"):
        other = folder / ("cert.pem" if name == "key.pem" else "key.pem")
        (folder / name).write_text("precious")
        said = cert(status=1).output
        assert f"{folder / name} is there already; --out another folder, or --force" in said
        assert (folder / name).read_text() == "precious"
        assert not other.exists()
        (folder / name).unlink()
    (folder / "key.pem").write_text("precious")
    (folder / "key.pem").chmod(0o644)
    cert("--force")
    assert stat.S_IMODE((folder / "key.pem").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "name",
    ["https://llm.lan", "llm.lan:8443", "a b", "", "-x", "1.2.3", "1.2.3.400", "a" * 254, "é\0"],
)
def test_what_is_no_host_is_refused(folder: Path, name: str) -> None:
    said = cert(f"--name={name}", status=2).output
    assert "is neither a host name nor an IP address" in said
    assert list(folder.iterdir()) == []


def test_too_many_names_are_refused() -> None:
    arguments = [part for n in range(101) for part in ("--name", f"h{n}")]
    assert "over 100 names" in cert(*arguments, status=2).output


def test_a_folder_that_cannot_be_written_is_one_line(folder: Path) -> None:
    (folder / "file").write_text("")
    said = cert("--out", "file/below", status=1).output
    assert said == f"Error: {folder}/file/below: Not a directory\n"


def test_no_name_of_the_machine_is_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("it might take long")

    for name in ("getaddrinfo", "getfqdn", "gethostbyname"):
        monkeypatch.setattr(socket, name, fail)
    for host in machine_names()[1:3]:
        assert ipaddress.ip_address(host).is_loopback
