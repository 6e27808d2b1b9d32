"""
What a configuration refers to on this machine: the engine, certificates, environment variables.

They are looked at to say that they are missing, or to find them; nothing is run or changed. A
model's file may come later: it is not looked at here.
"""

from __future__ import annotations

import os
import shutil

from llamagw.config.document import Report

MOST_CERTIFICATES = 16 << 20
"""How much of a file of certificates is read, in bytes; a system's whole store has about 0.2 MB."""


def find_engine(fault: Report, given: str, path: str) -> str:
    """
    The engine to run; what is wrong with it becomes a fault.

    :param given: as the file has it; a bare name that is no file is looked for on PATH, as a shell
        would
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
    Look whether a file has certificates in it.

    :param path: absolute
    :param place: where it stands in the configuration
    """
    if os.path.exists(path) and not os.path.isfile(path):
        # A pipe has no end that comes by itself, /dev/zero none at all.
        return fault(place, f"{path} is not a file; give a PEM file of certificates")
    try:
        with open(path, "rb") as file:
            if b"-----BEGIN CERTIFICATE-----" not in file.read(MOST_CERTIFICATES):
                fault(place, f"{path} has no certificate in it (PEM is expected)")
    except OSError as error:
        fault(place, f"{path} cannot be read: {error.strerror}")


def variable(name: str) -> str:
    """An environment variable's value; "" if it has none."""
    return os.environ.get(name, "")
