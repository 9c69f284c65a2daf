"""Every constant of the protocol that a network may choose; part of `network.toml`, so its hash is in the handshake."""

from __future__ import annotations

import hashlib
import math

import msgspec

from quiver.errors import UsageError

# Constants that may be 0; all others must be more.
_MAY_BE_ZERO = frozenset(
    {"completion_tokens_slack", "clock_skew_ms_max", "acknowledge_interval_s", "submit_grace_s", "slash_credits"}
)


class Params(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Durations are seconds unless the name says ms; sizes are bytes; money is credits."""

    # Kademlia (Maymounkov & Mazieres 2002; libp2p kad-dht specification)
    k: int = 20
    "Bucket size and number of closest peers a lookup returns."
    alpha: int = 3
    "Questions in flight in one lookup."
    beta: int = 3
    "The lookup that refreshes a bucket stops when this many closest peers have answered; others when k have."
    disjoint_paths: int = 1
    "Paths of a lookup that share no peer (S/Kademlia, Baumgart & Mies 2007). More find records despite liars near the key."
    rpc_timeout_s: float = 5.0
    bucket_refresh_s: float = 600.0
    lease_s: float = 600.0
    "A provider record is dropped this long after it was last renewed."
    republish_s: float = 300.0
    records_per_key_max: int = 512
    record_keys_max: int = 4096
    provider_peers_max: int = 64
    "GET_PROVIDERS answers at most this many, drawn at random."

    # offers and candidates
    offer_lease_s: float = 600.0
    candidates_max: int = 512
    discovery_refresh_s: float = 60.0
    load_refresh_s: float = 5.0

    # transport
    dial_timeout_s: float = 10.0
    frame_bytes_max: int = 4 * 1024 * 1024
    stream_window_bytes: int = 256 * 1024
    streams_per_peer_max: int = 256

    # requests
    body_bytes_max: int = 1024 * 1024
    max_tokens_default: int = 512
    max_tokens_limit: int = 131_072
    request_timeout_s: float = 300.0
    first_token_timeout_s: float = 60.0
    quote_timeout_s: float = 5.0
    attempts_max: int = 3
    gateway_requests_max: int = 4096
    chunk_buffer_max: int = 1024
    "Chunks a gateway holds for one slow client before it cancels the request."
    tokens_per_byte_max: float = 1.0
    "Upper edge of the band: a token is at least one byte, so completion tokens never exceed bytes delivered."
    completion_tokens_slack: int = 2
    "An engine counts its end-of-sequence step and the tokens of a stop string that it does not emit."

    # channels and receipts
    channels_max: int = 64
    channel_deposit_credits: int = 1_000_000
    first_credit: int = 10_000
    "Unacknowledged credits a provider risks on an unproven payer; doubles with each acknowledged request."
    credit_limit_max: int = 200_000
    unproven_credit_max: int = 1_000_000
    "Sum of credit over all unproven payers of one provider."
    receipt_every_tokens: int = 1024
    acknowledge_interval_s: float = 0.25
    clock_skew_ms_max: int = 60_000
    authorise_lifetime_s: float = 86_400.0

    # settlement
    epoch_ms: int = 3_600_000
    receipts_batch_max: int = 1000
    receipts_interval_s: float = 5.0
    exit_delay_s: float = 172_800.0
    submit_grace_s: float = 1_800.0
    slash_credits: int = 10_000
    "What a proven fault takes from the bond of whoever posted the root; 0: no bond stands behind a root."

    def __post_init__(self) -> None:
        """`UsageError` names the first constant that no network can run with."""
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if not math.isfinite(value) or value < 0 or (value == 0 and name not in _MAY_BE_ZERO):
                bound = "0 or more" if name in _MAY_BE_ZERO else "more than 0"
                raise UsageError(f"params: {name} = {value}, but it must be finite and {bound}")

    @classmethod
    def default(cls) -> Params:
        """The public network's constants."""
        return cls()

    @classmethod
    def minimal(cls) -> Params:
        """Same code, tiny constants: for tests by hand."""
        return cls(
            k=3, alpha=2, beta=2, rpc_timeout_s=1.0, bucket_refresh_s=10.0, lease_s=10.0, republish_s=5.0,
            records_per_key_max=8, record_keys_max=16, provider_peers_max=4, offer_lease_s=10.0, candidates_max=8,
            discovery_refresh_s=2.0, load_refresh_s=1.0, frame_bytes_max=64 * 1024, stream_window_bytes=16 * 1024,
            body_bytes_max=16 * 1024, request_timeout_s=10.0, first_token_timeout_s=5.0, quote_timeout_s=1.0,
            gateway_requests_max=8, chunk_buffer_max=16, channels_max=4, receipt_every_tokens=8,
            receipts_batch_max=4, receipts_interval_s=0.5, epoch_ms=10_000, exit_delay_s=20.0, submit_grace_s=5.0,
            slash_credits=0,
        )  # fmt: skip

    def hash(self) -> bytes:
        """SHA-256 of the canonical JSON of all constants."""
        return hashlib.sha256(msgspec.json.encode(self, order="sorted")).digest()
