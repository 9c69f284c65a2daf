"""A devnet as its tests see it: what its nodes wrote, which faults its engine has, and what it is for a client to be slow."""

from __future__ import annotations

import json
import socket
from urllib.parse import urlsplit

import httpx

from quiver.identity.peer_id import peer_id_text
from quiver.live import keyfile
from tests.live.waiting import until


def events(devnet, name, kind):
    """Trace events of a node, from its log."""
    lines = devnet.log_path(name).read_text().splitlines()
    return [line["event"] for line in map(json.loads, lines) if line.get("event", {}).get("type") == kind]


def inject(devnet, fault):
    """The next request at the engine breaks like this."""
    httpx.post(f"{devnet.backend_url}/mock/faults", json={"fault": fault}).raise_for_status()


def mock_log(devnet, kind):
    """What the engine did."""
    return [event for event in httpx.get(f"{devnet.backend_url}/mock/log").json()["events"] if event["kind"] == kind]


def serving(devnet):
    """Name of the provider that got the last request."""
    peer = events(devnet, "gateway", "request_dispatched")[-1]["provider"]
    names = {peer_id_text(keyfile.load(devnet.directory / f"{name}.key").peer_id): name for name in devnet.providers}
    return names[peer]


def issued(devnet, request_id):
    """Receipts of one request, from all providers' logs."""
    receipts = [one for name in devnet.providers for one in events(devnet, name, "receipt_issued")]
    return [one for one in receipts if one["request_id"] == request_id]


def finished(devnet, request_id):
    """The gateway's word about the end of a request; it comes a moment after the client's last byte."""
    return until(
        lambda: [one for one in events(devnet, "gateway", "request_finished") if one["request_id"] == request_id],
        "the end of the request",
    )[0]


def is_acknowledged(devnet, receipt):
    """Whether the gateway has signed for the channel up to this receipt."""
    signed = events(devnet, "gateway", "receipt_acknowledged")
    return any(one["channel"] == receipt["channel"] and one["seq"] >= receipt["seq"] for one in signed)


def own_bytes(process):
    """Memory that a process has taken for itself, swapped out or not. Pages of files are the kernel's: it takes them from an idle process
    and gives them back, which would look like growth."""
    with open(f"/proc/{process.pid}/status") as file:
        sizes = dict(line.split(":", 1) for line in file)
    return sum(int(sizes[name].split()[0]) * 1024 for name in ("RssAnon", "VmSwap"))


class SlowClient:
    """Posts a request, then reads only when it is told to. Its own buffer is as small as the kernel allows."""

    def __init__(self, url, path, body):
        data = json.dumps(body).encode()
        place = urlsplit(url)
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._socket.settimeout(30)
        self._socket.connect((place.hostname, place.port))
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Type: application/json\r\nConnection: close\r\n"
        )
        self._socket.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)

    def hurry(self):
        """From here on with a large buffer."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)

    def read(self, size):
        """At most `size` bytes; empty when the gateway has ended the connection."""
        try:
            return self._socket.recv(size)
        except ConnectionResetError:
            return b""

    def close(self):
        """Leave."""
        self._socket.close()
