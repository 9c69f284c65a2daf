"""Values under `/pk/PEER_ID`: the public key of a peer whose id is only its hash (libp2p specifications, peer-ids).

Rules of this file: a validator, without I/O. Nobody has to be believed: a key either hashes to the peer id or it does not.
"""

from __future__ import annotations

from collections.abc import Sequence

from quiver.errors import MalformedMessage
from quiver.identity.peer_id import check_peer_id, compute_host_peer_id, peer_id_text
from quiver.ids import PeerId

PUBLIC_KEY_NAMESPACE = "pk"
_PREFIX = f"/{PUBLIC_KEY_NAMESPACE}/".encode()


def public_key_record_key(peer_id: PeerId) -> bytes:
    """Where a peer's public key is stored: the binary peer id behind the namespace."""
    return _PREFIX + peer_id


class PublicKeyValidator:
    """`quiver.dht.value_store.Validator` of `/pk`."""

    def check(self, key: bytes, value: bytes) -> None:
        """ValueError unless `value` is the PublicKey protobuf of the peer that `key` names."""
        try:
            peer_id = check_peer_id(key.removeprefix(_PREFIX))
        except MalformedMessage as error:
            raise ValueError(f"/pk/ is followed by a binary peer id: {error}") from error
        if compute_host_peer_id(value) != peer_id:
            raise ValueError(f"the value is not the public key of {peer_id_text(peer_id)}")

    def select(self, key: bytes, values: Sequence[bytes]) -> int:
        """A peer has one key, so all that passed are the same."""
        return 0
