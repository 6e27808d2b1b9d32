"""
Who listens on a port of this machine: a process that the gateway has started, or another.

An answer on a port does not say whose it is: between the look for a free port and the engine's
bind, any process can take it. On Linux the kernel's list of sockets is compared with what the
engine's processes have open. Elsewhere psutil tells only what those have open: who else listens is
not seen there, and counts as nobody.
"""

from __future__ import annotations

import enum
import os
import socket
import sys
from collections.abc import Iterator

import psutil


class Listener(enum.Enum):
    """Who gets the connections to a port."""

    NOBODY = "nobody"
    OURS = "ours"
    OTHER = "other"
    #: Ours and another's, by SO_REUSEPORT: each connection goes to either.
    SHARED = "shared"


def who_listens(port: int, leader: int) -> Listener:
    """
    Who would get a connection to 127.0.0.1 and this port.

    It takes about 1 ms; where nobody listens and there are 10,000 connections, 40 ms.

    :param leader: the process that was started; what its session and its descendants have open is
        its own, since it may be a script that runs the engine
    :raises OSError: when that cannot be seen
    """
    if sys.platform != "linux":
        return _as_psutil_tells(port, leader)
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
    """The inodes of the sockets among which the kernel chooses."""
    loopback, words = _hexadecimal("127.0.0.1"), "0" * 8
    mapped = words * 2 + _hexadecimal("0.0.255.255") + loopback
    exact, wild = _find("tcp", port, loopback, words)
    exact6, wild6 = _find("tcp6", port, mapped, words * 4)
    # It prefers what is bound to the very address, then IPv4's own sockets.
    return exact or exact6 or wild or wild6


def _hexadecimal(address: str) -> str:
    """An address as the kernel prints it: by words, in the order of this machine's bytes."""
    return f"{int.from_bytes(socket.inet_aton(address), sys.byteorder):08X}"


def _find(family: str, port: int, *addresses: str) -> list[set[str]]:
    """The inodes of those that listen on the port, by address."""
    # Local and remote address, state.
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
                    # Those that listen come first (before Linux 4.4 with those that connect to
                    # them); tens of thousands of others may follow.
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


def _as_psutil_tells(port: int, leader: int) -> Listener:
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
