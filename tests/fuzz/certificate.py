"""libp2p's TLS certificate: DER that proves a peer, or is refused by name."""

from cryptography import x509

from quiver.errors import PeerError
from quiver.identity.keys import KeyPair
from quiver.identity.peer_id import check_peer_id
from quiver.quic import certificate

UTC_MS = 1_700_000_000_000
_KEYS = KeyPair(b"\x01" * 32)
_OURS = certificate.make(public_key=_KEYS.public_key, sign=_KEYS.sign, entropy=b"e" * 32, utc_ms=UTC_MS).certificate
SEEDS = [_OURS.public_bytes(certificate.serialization.Encoding.DER)]


def one_input(data: bytes) -> None:
    try:
        shown = x509.load_der_x509_certificate(data)
    except (ValueError, x509.InvalidVersion):
        return  # the TLS hook answers these with an alert
    try:
        check_peer_id(certificate.verify(shown, UTC_MS))
    except PeerError:
        return
