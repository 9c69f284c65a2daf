"""The asking half of a transport: rpcs and streams to peers, dialled where there is no connection yet.

An rpc is one stream. Over a connection that is there, question and end leave in the turn in which they are asked.
"""

from __future__ import annotations

import asyncio
from typing import Any

from quiver.errors import Busy, DeadlineExceeded, MalformedMessage, PeerError, PeerUnreachable, StreamReset, WireCode
from quiver.ids import PeerId, short
from quiver.ports import Clock, ProtocolSpec
from quiver.quic.events import FrameStream
from quiver.quic.limits import Quota
from quiver.quic.link import Link
from quiver.quic.question import Deadlines, Question
from quiver.quic.stream import OnFrame, PeerStream
from quiver.quic.swarm import Swarm
from quiver.wire.framing import Framing
from quiver.wire.kad import KAD_QUIVER

# Ids of our own protocols begin with this.
OURS = "/quiver/"


class Asker:
    """`network` goes into the id of each protocol of ours: a peer of another network finds that nothing is served here."""

    def __init__(
        self, *, swarm: Swarm, quota: Quota, clock: Clock, network: str, on_frame: OnFrame | None,
        loop: asyncio.AbstractEventLoop,
    ) -> None:  # fmt: skip
        self.swarm = swarm
        self.quota = quota
        self._clock = clock
        self._on_frame = on_frame
        self._loop = loop
        self._prefix = f"{OURS}{network}/" if network else OURS
        self._deadlines = Deadlines(loop)

    def wire_id(self, protocol: ProtocolSpec) -> str:
        """The protocol's id as peers of this network name it; libp2p's own protocols belong to no network."""
        return protocol.id.replace(OURS, self._prefix, 1) if protocol.id.startswith(OURS) else protocol.id

    async def rpc(self, peer: PeerId, protocol: ProtocolSpec, message: Any, *, timeout_s: float) -> Any:
        """Ask, and wait for the one answer. `timeout_s` covers the dial."""
        link: Link | None = None
        stream: FrameStream | None = None
        try:
            left_s = timeout_s
            link = self.swarm.link_to(peer)
            if link is None:
                began_s = self._clock.now()
                async with self._clock.deadline(timeout_s):
                    link = await self.swarm.connect(peer)
                left_s -= self._clock.now() - began_s
            data = protocol.encode(message)
            stream = self._open(link, protocol)
            return await self._ask(link, stream, protocol, data, left_s)
        except BaseException as error:
            # Frees the stream at both ends, also when the caller was cancelled.
            if link is not None and stream is not None:
                code: int = WireCode.NONE
                if isinstance(error, PeerError) and not isinstance(error, StreamReset):
                    code = error.wire_code
                link.driver.reset(stream, code)
                link.transmit_soon()
                if isinstance(error, MalformedMessage):
                    error.peer_id = peer
            if isinstance(error, DeadlineExceeded):
                raise DeadlineExceeded(f"{short(peer)} did not answer {protocol.id} within {timeout_s:g} s") from error
            if isinstance(error, StreamReset) and link is not None and link.driver.is_closed:
                why = f": {link.driver.ending_reason}" if link.driver.ending_reason else ""
                raise PeerUnreachable(f"the connection to {short(peer)} was lost during {protocol.id}{why}") from error
            raise

    async def _ask(
        self, link: Link, stream: FrameStream, protocol: ProtocolSpec, asked: bytes, timeout_s: float
    ) -> Any:
        driver, question = link.driver, Question(self._loop)
        stream.on_change = question.on_change
        self._deadlines.add(question, timeout_s)
        try:
            while not driver.may_write(stream):
                await question.change()
            driver.write(stream, asked, is_last=ends_with_question(protocol))
            link.transmit_soon()
            while (data := driver.read(stream)) is None:
                if stream.read_code is not None:
                    raise StreamReset(stream.read_code, peer_id=driver.peer_id)
                if stream.has_ended:
                    why = f"{protocol.id} ended without an answer"
                    raise StreamReset(WireCode.PROTOCOL_VIOLATION, why, peer_id=driver.peer_id)
                await question.change()
        finally:
            self._deadlines.remove(question, timeout_s)
        answer = protocol.decode(data)
        assert driver.peer_id is not None
        if self._on_frame is not None:
            self._on_frame(driver.peer_id, answer, data)
        has_to_send = not stream.is_finished
        driver.finish(stream)
        driver.expect_silence(stream)
        if has_to_send or driver.is_open(stream) or driver.has_credit_to_send(stream):
            link.transmit_soon()
        return answer

    async def open(self, peer: PeerId, protocol: ProtocolSpec, *, timeout_s: float) -> PeerStream:
        """A new stream. An unsupported protocol shows at the first receive."""
        try:
            async with self._clock.deadline(timeout_s):
                link = await self.swarm.connect(peer)
                stream = self._open(link, protocol)
                # The peer may be the one who speaks first.
                link.transmit_soon()
                return self._wrap(link, stream, protocol)
        except DeadlineExceeded as error:
            # The same as a handshake that times out a moment earlier: nobody there. No deadline of a request has passed.
            raise PeerUnreachable(f"no connection to {short(peer)} within {timeout_s:g} s") from error

    def rtt_s(self, peer: PeerId) -> float | None:
        """Smoothed round-trip time of the connection in use, or None."""
        link = self.swarm.link_to(peer)
        return None if link is None else link.driver.rtt_s

    def _open(self, link: Link, protocol: ProtocolSpec) -> FrameStream:
        assert link.driver.peer_id is not None, "links that are handed out have a peer"
        wire_id = self.wire_id(protocol)
        scope = self.quota.scope(link.driver.peer_id, wire_id)
        refusal = scope.enter(is_incoming=False)
        if refusal is not None:
            self.quota.refuse(refusal)
            raise Busy(f"too many streams are open ({refusal}); wait for some to end")
        try:
            stream = link.driver.open(wire_id, framing_of(protocol))
        except BaseException:
            scope.leave_outgoing()
            raise
        stream.on_done = scope.leave_outgoing
        return stream

    def _wrap(self, link: Link, stream: FrameStream, protocol: ProtocolSpec) -> PeerStream:
        return PeerStream(
            link.driver,
            stream,
            protocol,
            transmit_soon=link.transmit_soon,
            on_frame=self._on_frame,
        )


def framing_of(protocol: ProtocolSpec) -> Framing:
    """How its streams are cut."""
    return Framing(protocol.frame_bytes_max, protocol.fixed_bytes)


def ends_with_question(protocol: ProtocolSpec) -> bool:
    """Our end leaves with the question: only where no stranger answers, because py-libp2p 0.8.1 resets some streams then."""
    return protocol.id.startswith(OURS) and protocol.id != KAD_QUIVER
