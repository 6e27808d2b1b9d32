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
INTEGRITY = ""

#: The name here, by the name in the package; and the SHA-256.
FILES = {
    "package/dist/uPlot.iife.min.js": ("uplot.js", ""),
    "package/dist/uPlot.min.css": ("uplot.css", ""),
    "package/LICENSE": ("uplot.LICENSE.txt", ""),
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
