"""Ports of this machine's loopback that nobody has, for a devnet's nodes.

A port is chosen here, written into configs, and bound by another process seconds later. In between it is ours by a lock that
every process of this user asks for: byte N of one file in the directory for temporary files is port N.
"""

from __future__ import annotations

import fcntl
import functools
import os
import random
import socket
import tempfile
import threading
from collections.abc import Iterable
from pathlib import Path

from quiver.errors import Unavailable, UsageError

HOST = "127.0.0.1"
# The kernel gives no program a port of these unasked: Linux begins at 32768 (ip_local_port_range), macOS at 49152. So one whose
# node was killed is still free when the node starts again.
PORTS = range(20_000, 32_000)

_ours: set[int] = set()
"Ports this process has locked: such locks hold against other processes only, and all of them end with this one."
_ours_lock = threading.Lock()


def free_ports(count: int) -> list[int]:
    """Ports for UDP and TCP that nobody has, and that no other call gets before `release_ports` or this process's end.

    `Unavailable` when there are not so many. A program that does not ask here, or another user's, may still take one before it
    is bound: then the node that was to have it says so.
    """
    ports: list[int] = []
    with _ours_lock:
        # Not from the simulation's seeds: two processes must not try the same ports in the same order.
        for port in random.SystemRandom().sample(PORTS, len(PORTS)):
            if len(ports) == count:
                break
            if port not in _ours and _lock(port):
                if _is_free(port):
                    ports.append(port)
                    _ours.add(port)
                else:
                    _unlock(port)
    if len(ports) < count:
        release_ports(ports)
        raise Unavailable(f"{HOST} has fewer than {count} free ports from {PORTS.start} to {PORTS.stop - 1}")
    return ports


def release_ports(ports: Iterable[int]) -> None:
    """Others may have them."""
    with _ours_lock:
        for port in ports:
            _ours.discard(port)
            _unlock(port)


@functools.cache
def _lock_file() -> int:
    # Never closed: a process that closes any descriptor of a file loses all its locks on it.
    path = Path(tempfile.gettempdir()) / f"quiver-ports-{os.getuid()}"
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _lock(port: int) -> bool:
    try:
        fcntl.lockf(_lock_file(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
    except (BlockingIOError, PermissionError):
        return False
    return True


def _unlock(port: int) -> None:
    fcntl.lockf(_lock_file(), fcntl.LOCK_UN, 1, port)


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp, socket.socket(socket.AF_INET) as tcp:
        try:
            udp.bind((HOST, port))
            tcp.bind((HOST, port))
        except OSError:
            return False
    return True


def check_free(port: int) -> None:
    """`UsageError` when somebody listens on this TCP port: told at once, not by a gateway's log half a second later."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((HOST, port))
        except (OSError, OverflowError) as error:
            raise UsageError(
                f"port {port} of {HOST} cannot be used ({error}): is another devnet running? Choose another --http-port, or 0"
            ) from error
