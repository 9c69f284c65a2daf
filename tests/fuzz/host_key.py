"""Host keys: a key of any type, or malformed; nothing of it verifies a signature nobody made."""

from quiver.errors import MalformedMessage
from quiver.identity.host_key import encode_host_key, parse_host_key, verify_host_signature
from quiver.identity.peer_id import check_peer_id, compute_host_peer_id
from tests.unit.identity.vectors import KINDS, host_key

SEEDS = [host_key(kind) for kind in KINDS]


def one_input(data: bytes) -> None:
    try:
        kind, key = parse_host_key(data)
        assert encode_host_key(kind, key) == data
        check_peer_id(compute_host_peer_id(data))
        assert not verify_host_signature(data, b"message", data[:64].ljust(64, b"\1"))
    except MalformedMessage:
        return
