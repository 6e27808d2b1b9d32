"""
What a configuration refers to on this machine: the engine, certificates, environment variables.

Checks that they exist, and finds them; nothing is run or changed. A model's file is not checked: it
may be added later.
"""

from __future__ import annotations

import os
import shutil

from llamagw.config.document import Report

#: Bytes of a file of certificates that are read; a system's whole store has about 0.2 MB.
MOST_CERTIFICATES = 16 << 20


def find_engine(fault: Report, given: str, path: str) -> str:
    """
    Find the engine to run; if it cannot be run, that becomes a fault.

    :param fault: reports a fault
    :param given: as configured; a bare name that is no file is looked up on PATH, as by a shell
    :param path: the same, absolute
    :return: its absolute path
    """
    if os.path.basename(given) == given and not os.path.exists(path):
        found = shutil.which(given)
        if found is not None:
            return found
    remedy = "give the path of the llama-server executable of llama.cpp"
    if not os.path.exists(path):
        fault("llama_server_path", f"there is no file {path}; {remedy}")
    elif not os.path.isfile(path):
        fault("llama_server_path", f"{path} is not a file; {remedy}")
    elif not os.access(path, os.X_OK):
        fault("llama_server_path", f"{path} is not executable; chmod +x it, or {remedy}")
    return path


def certificates(fault: Report, path: str, place: str) -> None:
    """
    Check that a file has certificates in it.

    :param fault: reports a fault
    :param path: of the file, absolute
    :param place: in the configuration
    """
    if os.path.exists(path) and not os.path.isfile(path):
        # Reading a pipe or /dev/zero might never end.
        return fault(place, f"{path} is not a file; give a PEM file of certificates")
    try:
        with open(path, "rb") as file:
            if b"-----BEGIN CERTIFICATE-----" not in file.read(MOST_CERTIFICATES):
                fault(place, f"{path} has no certificate in it (PEM is expected)")
    except OSError as error:
        fault(place, f"{path} cannot be read: {error.strerror}")


def variable(name: str) -> str:
    """
    The value of an environment variable.

    :param name: of the variable
    :return: "" if it is not set
    """
    return os.environ.get(name, "")
