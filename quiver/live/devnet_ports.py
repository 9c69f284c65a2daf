"""Ports of this machine's loopback that nobody has, for a devnet's nodes."""

from __future__ import annotations

import socket
from contextlib import ExitStack

from quiver.errors import UsageError

HOST = "127.0.0.1"


def free_ports(count: int, kind: socket.SocketKind) -> list[int]:
    """Ports nobody has now; those for UDP are free for TCP too, since a node listens on both.

    Another program may take one before it is bound: then the start fails and says so.
    """
    ports: list[int] = []
    with ExitStack() as stack:
        while len(ports) < count:
            sock = stack.enter_context(socket.socket(socket.AF_INET, kind))
            sock.bind((HOST, 0))
            port = int(sock.getsockname()[1])
            if kind is socket.SOCK_DGRAM and not _is_free(stack, port):
                continue
            ports.append(port)
    return ports


def _is_free(stack: ExitStack, port: int) -> bool:
    try:
        stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM)).bind((HOST, port))
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
