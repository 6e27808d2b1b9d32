"""
Which process listens on a port of this machine: an engine of the gateway, or another one.

An answer on a port does not prove who sent it: between the check for a free port and the engine's
bind, any process can take the port. On Linux the kernel's list of sockets is compared with the
sockets that the engine's processes have open. On other systems psutil shows only the latter: other
listeners are not seen there, and the port counts as free.
"""

from __future__ import annotations

import enum
import os
import socket
import sys
from collections.abc import Iterator

import psutil


class Listener(enum.Enum):
    """Whose process accepts the connections to a port."""

    NOBODY = "nobody"
    OURS = "ours"
    OTHER = "other"
    #: Ours and another's, by SO_REUSEPORT: each connection goes to either.
    SHARED = "shared"


def who_listens(port: int, leader: int) -> Listener:
    """
    Find out which process would accept a connection to 127.0.0.1 and a port.

    Takes about 1 ms; 40 ms if there is no listener and there are 10,000 connections.

    :param port: the port
    :param leader: the pid of the process that was started; the sockets of its session and of its
        descendants count as its own, since it may be a script that runs the engine
    :raises OSError: when the system does not allow to find out
    """
    if sys.platform != "linux":
        return _by_psutil(port, leader)
    inodes = _listening(port)
    if not inodes:
        return Listener.NOBODY
    others, hidden = set(inodes), None
    for pid in _processes(leader):
        try:
            others -= _sockets(pid)
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended
        except OSError as error:
            hidden = error
        if not others:
            return Listener.OURS
    if hidden is not None:
        raise hidden
    return Listener.OTHER if others == inodes else Listener.SHARED


def _listening(port: int) -> set[str]:
    """The inodes of the listening sockets to which the kernel would assign a connection."""
    loopback, zeros = _hexadecimal("127.0.0.1"), "0" * 8
    mapped = zeros * 2 + _hexadecimal("0.0.255.255") + loopback
    exact, wild = _find("tcp", port, loopback, zeros)
    exact6, wild6 = _find("tcp6", port, mapped, zeros * 4)
    # The kernel prefers a socket that is bound to the exact address, then an IPv4 socket.
    return exact or exact6 or wild or wild6


def _hexadecimal(address: str) -> str:
    """An IPv4 address as /proc/net/tcp has it: hexadecimal, in this machine's byte order."""
    return f"{int.from_bytes(socket.inet_aton(address), sys.byteorder):08X}"


def _find(family: str, port: int, *addresses: str) -> list[set[str]]:
    """The inodes of the sockets that listen on a port, one set for each address."""
    # Local address, remote address, state (0A: listening).
    wanted = [f" {a}:{port:04X} {'0' * len(a)}:0000 0A ".encode() for a in addresses]
    found: list[set[str]] = [set() for _ in addresses]
    try:
        # Below /proc/self, since /proc/net may be hidden from services.
        with open(f"/proc/self/net/{family}", "rb") as file:
            for line in file:
                if b" 0A " in line:
                    for number, listens in enumerate(wanted):
                        if listens in line:
                            found[number].add(line.split()[9].decode())
                elif any(found) and b" 03 " not in line:
                    # Listening sockets come first (before Linux 4.4 together with connections in
                    # state SYN_RECV, 03); tens of thousands of others may follow.
                    break
    except FileNotFoundError:
        if family == "tcp":
            raise
        # IPv6 is switched off.
    return found


def _sockets(pid: int) -> set[str]:
    """The inodes of the sockets that a process has open."""
    folder = f"/proc/{pid}/fd"
    found = set()
    for number in os.listdir(folder):
        try:
            target = os.readlink(f"{folder}/{number}")
        except FileNotFoundError:
            continue  # closed meanwhile
        if target.startswith("socket:["):
            found.add(target[8:-1])
    return found


def _processes(leader: int) -> Iterator[int]:
    """The process itself, then its session and its descendants."""
    yield leader
    seen = {leader}
    for pid in psutil.pids():
        try:
            if pid not in seen and os.getsid(pid) == leader:
                seen.add(pid)
                yield pid
        except OSError:
            continue  # it has ended
    for pid in _descendants(leader):
        if pid not in seen:
            yield pid


def _descendants(leader: int) -> list[int]:
    try:
        return [child.pid for child in psutil.Process(leader).children(recursive=True)]
    except psutil.Error:
        return []


def _by_psutil(port: int, leader: int) -> Listener:
    for pid in (leader, *_descendants(leader)):
        try:
            process = psutil.Process(pid)
            # It had another name before psutil 6.
            look = getattr(process, "net_connections", None) or process.connections
            connections = look("tcp")
        except psutil.NoSuchProcess:
            continue
        except psutil.AccessDenied as error:
            raise PermissionError(f"access to process {pid} is denied") from error
        for one in connections:
            if one.status == psutil.CONN_LISTEN and one.laddr.port == port:
                return Listener.OURS
    return Listener.NOBODY
