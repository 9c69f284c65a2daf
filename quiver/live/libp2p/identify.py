"""What peers say of themselves, asked once on every new connection and told to whoever asks.

Rules of this file: nothing a peer says is believed but what it proved: its key is the connection's, its record is signed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import quiver
from quiver.errors import BadSignature, PeerError, WireCode
from quiver.identity.keys import KeyPair
from quiver.identity.peer_id import compute_host_peer_id, encode_public_key
from quiver.ids import PeerId
from quiver.ports import Clock, Stream, Transport
from quiver.values.identify import Identify, PeerRecord
from quiver.wire import identify as wire
from quiver.wire.envelope import open_peer_record, seal_peer_record
from quiver.wire.identify import IdentifyCodec

PROTOCOL_VERSION = "ipfs/0.1.0"
TIMEOUT_S = 10.0
# py-libp2p 0.8.1 loses an answer whose end comes in the same datagram: over QUIC it takes the end first.
END_AFTER_S = 0.05
# Peers whose answer is remembered; beyond it the oldest are forgotten.
REMEMBERED_MAX = 4096
ASK, PUSH = IdentifyCodec(wire.IDENTIFY), IdentifyCodec(wire.IDENTIFY_PUSH)

OnIdentified = Callable[[PeerId, Identify], None]


class IdentifyService:
    """Serves identify and its push from the moment it is made. `protocols()` and `addresses()` are what we say of ourselves."""

    def __init__(
        self, transport: Transport, keypair: KeyPair, clock: Clock, *, protocols: Callable[[], Sequence[str]],
        observed: Callable[[PeerId], bytes | None], loop: asyncio.AbstractEventLoop,
    ) -> None:  # fmt: skip
        self._transport = transport
        self._keypair = keypair
        self._clock = clock
        self._protocols = protocols
        self._observed = observed
        self._loop = loop
        self._questions: dict[PeerId, asyncio.Task[Identify]] = {}
        self.known: dict[PeerId, Identify] = {}
        "The last answer of each peer, checked."
        self.listeners: list[OnIdentified] = []
        "Called with each checked answer."
        transport.serve(ASK, self._serve)
        transport.serve(PUSH, self._serve_push)

    def describe(self, peer: PeerId) -> Identify:
        """What `peer` is told of us."""
        addresses = self._transport.local_info().addresses
        record = PeerRecord(peer_id=self._transport.peer_id, seq=self._clock.utc_ms(), addresses=addresses)
        public_key = encode_public_key(self._keypair.public_key)
        return Identify(
            public_key=public_key, listen_addresses=addresses, protocols=tuple(self._protocols()),
            observed_address=self._observed(peer), protocol_version=PROTOCOL_VERSION,
            agent_version=f"quiver/{quiver.__version__}",
            signed_peer_record=seal_peer_record(record, public_key=public_key, sign=self._keypair.sign),
        )  # fmt: skip

    async def _serve(self, stream: Stream) -> None:
        for message in wire.split(self.describe(stream.peer_id)):
            await stream.send(message)
        await self._clock.sleep(END_AFTER_S)
        stream.finish()

    async def _serve_push(self, stream: Stream) -> None:
        self._take(stream.peer_id, await self._read(stream))
        stream.finish()

    async def _read(self, stream: Stream) -> Identify:
        messages: list[Identify] = []
        async with self._clock.deadline(TIMEOUT_S):
            while (message := await stream.receive()) is not None:
                messages.append(message)
                # Merged at once: `merge` refuses more than a stream may bring.
                wire.merge(messages)
        return wire.merge(messages)

    def ask_soon(self, peer: PeerId) -> None:
        """A connection is new: ask beside everything else."""
        # A peer may speak no identify, or be gone: it is used for what it proves otherwise.
        self._question(peer).add_done_callback(lambda done: done.cancelled() or done.exception())

    async def ask(self, peer: PeerId) -> Identify:
        """The peer's answer, checked."""
        return await asyncio.shield(self._question(peer))

    def _question(self, peer: PeerId) -> asyncio.Task[Identify]:
        """The one under way, or a new one: js-libp2p answers one of each peer at a time and resets a second."""
        task = self._questions.get(peer)
        if task is None:
            task = self._questions[peer] = self._loop.create_task(self._ask(peer))
            task.add_done_callback(lambda _: self._questions.pop(peer, None))
        return task

    async def _ask(self, peer: PeerId) -> Identify:
        stream = await self._transport.open(peer, ASK, timeout_s=TIMEOUT_S)
        try:
            told = await self._read(stream)
        except BaseException as error:
            # It may never end by itself, also when nobody waits for it any more.
            stream.reset(error.wire_code if isinstance(error, PeerError) else WireCode.NONE)
            raise
        # After the answer, because some peers reset a stream whose dialer ends it first.
        stream.finish()
        return self._take(peer, told)

    def _take(self, peer: PeerId, told: Identify) -> Identify:
        """Hold it against what the connection proved; a push adds to what is known. `PeerError`, `BadSignature`."""
        if told.public_key is not None and compute_host_peer_id(told.public_key) != peer:
            raise PeerError("identify names the key of another peer", peer_id=peer)
        if told.signed_peer_record is not None and open_peer_record(told.signed_peer_record).peer_id != peer:
            raise BadSignature("identify carries the signed record of another peer", peer_id=peer)
        before = self.known.pop(peer, None)
        if before is not None:
            # A list that is said again replaces the one before.
            kept = {name: getattr(before, name) for name in told.__struct_fields__ if getattr(told, name) in (None, ())}
            told = Identify(**{name: kept.get(name, getattr(told, name)) for name in told.__struct_fields__})
        self.known[peer] = told
        while len(self.known) > REMEMBERED_MAX:
            del self.known[next(iter(self.known))]
        for listener in self.listeners:
            listener(peer, told)
        return told

    async def close(self) -> None:
        """End the questions under way."""
        tasks = list(self._questions.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
