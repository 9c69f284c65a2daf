"""The seam: what protocol code may ask of the world. Everything that differs between simulation and reality is here.

Each port has one conformance suite (tests/conformance) that runs on every implementation.
`Policy` and other decisions are not ports: they are plain objects without I/O.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, NamedTuple, Protocol, runtime_checkable

import msgspec

from quiver.ids import Address, ChannelId, PeerId
from quiver.values.backend import BackendRequest, InstalledModel, Piece
from quiver.values.ledger import (
    BondState,
    ChallengeState,
    ChannelState,
    EpochState,
    Fault,
    LedgerEvent,
    Transaction,
)
from quiver.values.peer import PeerInfo

Message = msgspec.Struct


class ProtocolSpec(Protocol):
    """One protocol id and its codec. `encode(decode(b)) == b` for our own messages; `size` equals `len(encode(m))`."""

    id: str
    frame_bytes_max: int
    fixed_bytes: int
    "0: messages go with a length in front; otherwise each has this many bytes and none."

    def encode(self, message: Any) -> bytes:
        """Bytes of one message, without length prefix."""

    def decode(self, data: bytes) -> Any:
        """The message; `MalformedMessage` on anything else."""

    def size(self, message: Any) -> int:
        """Bytes `encode` would return."""


class Clock(Protocol):
    """Time. Decisions only ever see `now()`."""

    def now(self) -> float:
        """Seconds, monotonic; starts anywhere."""

    def utc_ms(self) -> int:
        """Milliseconds since 1970 on this node's own clock: for what is signed or sent."""

    async def sleep(self, seconds: float) -> None:
        """Return `seconds` later; 0 yields once."""

    def deadline(self, seconds: float) -> AbstractAsyncContextManager[None]:
        """`async with`: the body raises `DeadlineExceeded` when it takes longer."""


class Stream(Protocol):
    """Whole frames, both ways, reliable and ordered. `peer_id` is authenticated."""

    peer_id: PeerId

    async def send(self, frame: Any) -> None:
        """Wait at the peer's window, then hand the frame over. `StreamReset` once either side gave up, `UsageError` after `finish`.

        Cancelling a call that waits sends nothing.
        """

    async def receive(self) -> Any | None:
        """The next frame, None at the peer's clean end, `StreamReset(code)` at a reset. Cancelling loses no frame."""

    def finish(self) -> None:
        """No more frames from us; the other direction stays open. Idempotent."""

    def reset(self, code: int) -> None:
        """Give up both directions at once; the peer's awaits raise `StreamReset(code)`. Sync and idempotent."""


Answer = Callable[[PeerId, Any], Any]
Handler = Callable[[Stream], Awaitable[None]]


class Transport(Protocol):
    """Authenticated messages between peers."""

    peer_id: PeerId

    def local_info(self) -> PeerInfo:
        """Our peer id and the addresses others may dial."""

    def learn(self, info: PeerInfo) -> None:
        """Remember addresses of a peer (bounded, oldest dropped)."""

    def serve(self, protocol: ProtocolSpec, handler: Handler) -> None:
        """Run `handler` as a task for each incoming stream; when it raises, the stream is reset."""

    def answer(self, protocol: ProtocolSpec, function: Answer) -> None:
        """Answer each rpc with `function(peer_id, message)`; when it raises `PeerError`, the rpc's stream is reset."""

    async def rpc(self, peer: PeerId, protocol: ProtocolSpec, message: Any, *, timeout_s: float) -> Any:
        """Ask, and wait for the one answer. `DeadlineExceeded`, `PeerUnreachable`, `StreamReset`, `MalformedMessage`."""

    async def open(self, peer: PeerId, protocol: ProtocolSpec, *, timeout_s: float) -> Stream:
        """A new stream. `PeerUnreachable`, `DeadlineExceeded`; an unsupported protocol shows at the first receive."""

    def rtt_s(self, peer: PeerId) -> float | None:
        """Smoothed round-trip time measured here, or None."""

    async def close(self) -> None:
        """Stop serving; every open stream is reset with SHUTDOWN."""


OnEnd = Callable[[Any, Any, Exception | None], None]
"""Gets what the question was about, then the answer and None, or None and why there is no answer."""


@runtime_checkable
class CallingTransport(Protocol):
    """What a transport may offer beside `Transport`: a question that ends in a plain call, without a task that waits for it."""

    def ask(
        self, peer: PeerId, protocol: ProtocolSpec, message: Any, *, timeout_s: float, on_end: OnEnd, about: Any = None
    ) -> None:
        """As `rpc`, of what peers answer with a plain function. `PeerUnreachable` at once; everything else goes to `on_end`."""


class InferenceBackend(Protocol):
    """The engine that computes answers."""

    async def models(self) -> Sequence[InstalledModel]:
        """What is on disk, and what is warm."""

    def generate(self, request: BackendRequest) -> AsyncIterator[Piece]:
        """Pieces as the engine makes them; the last has `done_reason`. Closing the iterator cancels the work.

        `Unavailable` when the engine is not reachable or breaks; `RequestRejected` for a request it refuses.
        """

    async def health(self) -> str | None:
        """None when well, otherwise what is wrong and what to do."""

    async def close(self) -> None:
        """Release connections."""


Batch = Sequence[tuple[str, bytes, bytes | None]]
"""(table, key, value) puts; value None deletes."""


class Store(Protocol):
    """Durable key-value tables of one role. Small: what must survive kill -9."""

    def get(self, table: str, key: bytes) -> bytes | None:
        """Last committed value."""

    def scan(self, table: str, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Committed pairs whose key starts with `prefix`, in key order, as of the call."""

    async def commit(self, batch: Batch) -> None:
        """All or nothing; returns once the batch survives a crash. Cancelling the caller does not take the batch back."""

    async def close(self) -> None:
        """Flush and release."""


class Ledger(Protocol):
    """The settlement contract, wherever it runs."""

    chain_id: int
    contract: Address
    opening_cost_credits: int

    async def submit(self, transaction: Transaction) -> bytes:
        """Id of the accepted transaction, once it is final; `SettlementError(reason)` if the contract refuses it."""

    def events(self, cursor: int) -> Sequence[LedgerEvent]:
        """Final events with `index >= cursor`, oldest first."""

    def channel(self, channel_id: ChannelId) -> ChannelState | None:
        """Confirmed state of a channel."""

    def balance(self, account: Address) -> int:
        """Free credits of an account."""

    def epoch(self, number: int) -> EpochState | None:
        """The commitment of an epoch, once submitted."""

    def bond(self, account: Address) -> BondState | None:
        """What stands behind the roots of `account`, or None."""

    def challenge(self, fault: Fault, epoch: int, subject: bytes) -> ChallengeState | None:
        """Where an accusation stands, or None if nobody made it."""


class Signer(Protocol):
    """Our private keys. Async because live work leaves the event loop's thread."""

    peer_id: PeerId
    public_key: bytes
    "Ed25519, 32 bytes."
    session_public_key: bytes
    "secp256k1 compressed, 33 bytes."
    session_address: Address
    account: Address
    "Where this node's money lives: payer, payout or aggregator account."

    async def sign(self, message: bytes) -> bytes:
        """Ed25519 over the message, 64 bytes."""

    async def sign_session(self, digest: bytes, session: Address | None = None) -> bytes:
        """secp256k1 over a 32-byte digest: r | s | v, 65 bytes, low s. By `session_address`, or a session key rotated to.

        `ValueError` for a session that is none of ours.
        """


class SignatureCheck(NamedTuple):
    """One signature to check among many: what `verify`, or for a session's `verify_session`, would be asked."""

    signer: bytes
    "Ed25519 public key, or the session's address."
    message: bytes
    "For a session the 32-byte digest."
    signature: bytes
    is_session: bool = False


class Verifier(Protocol):
    """Checks other people's signatures. False, never an exception, for anything that is not valid."""

    async def verify(self, public_key: bytes, message: bytes, signature: bytes) -> bool:
        """Ed25519 as libsodium defines valid."""

    async def verify_session(self, address: Address, digest: bytes, signature: bytes) -> bool:
        """secp256k1, low s, recovers to `address`."""

    async def find_invalid(self, checks: Sequence[SignatureCheck]) -> int | None:
        """Index of the first that is not valid, None if all are: one wait for all of them, and no work after the first bad one."""


class Trace(Protocol):
    """One typed event per decision and delivered frame."""

    def emit(self, event: msgspec.Struct) -> None:
        """Record an event of `quiver.trace`."""
