"""
The libraries of others that the dashboard is served with, kept in llamagw/web/ui/.

``python deploy/vendor.py`` fetches the package from the npm registry, checks it and each file
against the hashes below, and writes the files and their licence as they are. A test compares the
files that are there with the same hashes.
"""

from __future__ import annotations

import base64
import hashlib
import io
import sys
import tarfile
import urllib.request
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "llamagw" / "web" / "ui"

PACKAGE, VERSION = "uplot", "1.6.32"
URL = f"https://registry.npmjs.org/{PACKAGE}/-/{PACKAGE}-{VERSION}.tgz"
#: As `npm view uplot@VERSION dist.integrity` tells it.
INTEGRITY = (
    "sha512-KIMVnG68zvu5XXUbC4LQEPnhwOxBuLyW1AHtpm6IKTXImkbLgkMy"
    "+jabjLgSLMasNuGGzQm/ep3tOkyTxpiQIw=="
)

#: The name here, by the name in the package; and the SHA-256.
FILES = {
    "package/dist/uPlot.iife.min.js": (
        "uplot.js",
        "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
    ),
    "package/dist/uPlot.min.css": (
        "uplot.css",
        "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
    ),
    "package/LICENSE": (
        "uplot.LICENSE.txt",
        "8f989229699b4fe2f1a0432d0e9edc338a8a911e250e2d1b01ecd770a5f5b1bd",
    ),
}


def main() -> None:
    """Fetch, check and write all files, or end with what is wrong."""
    with urllib.request.urlopen(URL, timeout=60) as answer:
        package = answer.read()
    found = "sha512-" + base64.b64encode(hashlib.sha512(package).digest()).decode()
    if found != INTEGRITY:
        sys.exit(f"{URL} has {found}, not {INTEGRITY}")
    with tarfile.open(fileobj=io.BytesIO(package)) as archive:
        for member, (name, sha256) in FILES.items():
            file = archive.extractfile(member)
            data = b"" if file is None else file.read()
            found = hashlib.sha256(data).hexdigest()
            if found != sha256:
                sys.exit(f"{member} has {found}, not {sha256}")
            (FOLDER / name).write_bytes(data)
            print(f"{name}: {len(data)} bytes, {PACKAGE} {VERSION}")


if __name__ == "__main__":
    main()
