"""What peers tell each other of themselves (libp2p specifications: identify, RFC 2 signed envelopes, RFC 3 peer records)."""

from __future__ import annotations

import msgspec

from quiver.ids import PeerId


class Identify(msgspec.Struct, frozen=True, kw_only=True):
    """All claims of the peer. None and empty mean "not said": a push says only what has changed."""

    public_key: bytes | None = None
    "PublicKey protobuf; believed only if it is the key of the connection's peer."
    listen_addresses: tuple[bytes, ...] = ()
    "Binary multiaddrs, normally without /p2p; an unusable one is skipped by its reader, not refused."
    protocols: tuple[str, ...] = ()
    observed_address: bytes | None = None
    "Where the peer sees us; js-libp2p adds /p2p, py-libp2p names tcp on a QUIC connection."
    protocol_version: str | None = None
    "`ipfs/0.1.0` as a rule; another one is no reason to part."
    agent_version: str | None = None
    signed_peer_record: bytes | None = None
    "An `Envelope` around a `PeerRecord`, still unchecked."


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """Signed bytes of one domain. The domain is not inside: signer and reader each know it."""

    public_key: bytes
    "PublicKey protobuf of the signer."
    payload_type: bytes
    payload: bytes
    signature: bytes


class PeerRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A peer's addresses, as it signs them."""

    peer_id: PeerId
    seq: int
    "The higher one is newer; seconds or nanoseconds since 1970 by habit."
    addresses: tuple[bytes, ...] = ()
    "Binary multiaddrs."
