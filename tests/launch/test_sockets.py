"""Who listens on a port: real sockets and processes, as the kernel tells of them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from typing import Any
from unittest import mock

import psutil
import pytest

from llamagw.launch.sockets import Listener, who_listens

LISTEN = """
import socket, sys
one = socket.socket()
one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
one.bind(("127.0.0.1", int(sys.argv[1])))
one.listen()
print(one.getsockname()[1], flush=True)
sys.stdin.read()
"""
linux = pytest.mark.skipif(sys.platform != "linux", reason="others are seen on Linux only")


class Process:
    """Listens, itself or as another process's child, until it is left."""

    def __init__(self, port: int = 0, through_a_shell: bool = False) -> None:
        command = [sys.executable, "-c", LISTEN, str(port)]
        if through_a_shell:
            # The echo keeps the shell from becoming its last command.
            command = ["sh", "-c", '"$@"; echo', "sh", *command]
        self.child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        assert self.child.stdout is not None
        self.pid = self.child.pid
        self.port = int(self.child.stdout.readline())

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.child.communicate()


def a_listener(host: str = "127.0.0.1", shared: bool = False, port: int = 0) -> socket.socket:
    one = socket.socket()
    if shared:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    one.bind((host, port))
    one.listen()
    return one


def test_the_process_itself_is_ours() -> None:
    with Process() as one:
        assert who_listens(one.port, one.pid) is Listener.OURS


def test_a_descendant_is_ours_too() -> None:
    with Process(through_a_shell=True) as one:
        assert who_listens(one.port, one.pid) is Listener.OURS


def test_nobody_listens() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        assert who_listens(bound.getsockname()[1], os.getpid()) is Listener.NOBODY


@linux
def test_somebody_else_listens() -> None:
    with Process() as one, a_listener() as other:
        assert who_listens(other.getsockname()[1], one.pid) is Listener.OTHER


@linux
def test_somebody_else_listens_on_all_addresses() -> None:
    with Process() as one, a_listener("") as other:
        assert who_listens(other.getsockname()[1], one.pid) is Listener.OTHER


@linux
def test_a_port_that_is_shared_is_seen_to_be() -> None:
    with Process() as one, a_listener(shared=True, port=one.port):
        assert who_listens(one.port, one.pid) is Listener.SHARED


@linux
def test_who_gets_none_of_the_connections_does_not_count() -> None:
    with Process() as one, a_listener("", shared=True, port=one.port):
        assert who_listens(one.port, one.pid) is Listener.OURS


@linux
def test_a_process_that_cannot_be_looked_into_is_not_trusted() -> None:
    listdir = os.listdir

    def denied(path: Any) -> Any:
        if os.fsdecode(path).endswith("/fd"):
            raise PermissionError(13, "Permission denied", path)
        return listdir(path)

    with (
        Process() as one,
        mock.patch.object(os, "listdir", denied),
        pytest.raises(PermissionError),
    ):
        who_listens(one.port, one.pid)


def test_where_psutil_is_asked() -> None:
    with Process(through_a_shell=True) as one, mock.patch.object(sys, "platform", "darwin"):
        assert who_listens(one.port, one.pid) is Listener.OURS
        assert who_listens(one.port, 2**22 + 1) is Listener.NOBODY
        denied = mock.patch.object(
            psutil.Process, "net_connections", side_effect=psutil.AccessDenied()
        )
        with denied, pytest.raises(PermissionError):
            who_listens(one.port, one.pid)
