"""`Transport` over a swarm: rpcs, streams and the handlers that serve them.

An rpc is one stream: question, answer with the end, then our end. An answer is computed in the turn in which the
question arrived, without a task.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from quiver.errors import Busy, DeadlineExceeded, PeerError, PeerUnreachable, StreamReset, Unavailable, WireCode
from quiver.ids import PeerId, short
from quiver.ports import Answer, Clock, Handler, ProtocolSpec
from quiver.quic.certificate import Identity
from quiver.quic.endpoint import QuicEndpoint, SendDatagram
from quiver.quic.events import FrameStream, NetworkAddress
from quiver.quic.limits import Limits, NodeLimits, Quota, Refusal, StreamScope
from quiver.quic.link import Link
from quiver.quic.stream import OnFrame, PeerStream
from quiver.quic.swarm import Swarm
from quiver.values.peer import PeerInfo
from quiver.wire.framing import Framing

# Ids of our own protocols begin with this.
OURS = "/quiver/"


class SwarmTransport:
    """`loop` is the running one by default. `addresses` is what others are told to dial. Endpoints add themselves to the swarm.

    `network` goes into the id of each protocol of ours: a peer of another network finds that nothing is served here.
    `on_frame(peer, message, payload)` observes each frame when it is handed over.
    """

    def __init__(
        self,
        *,
        peer_id: PeerId,
        clock: Clock,
        addresses: tuple[bytes, ...] = (),
        network: str = "",
        node_limits: NodeLimits | None = None,
        on_frame: OnFrame | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.peer_id = peer_id
        self.addresses = addresses
        self._prefix = f"{OURS}{network}/" if network else OURS
        self.framings: dict[str, Framing] = {}
        "Every protocol that is served."
        self._clock = clock
        self._on_frame = on_frame
        self._handlers: dict[str, tuple[ProtocolSpec, Handler]] = {}
        self._answers: dict[str, tuple[ProtocolSpec, Answer, bool]] = {}
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._loop = loop or asyncio.get_running_loop()
        self.quota = Quota(node_limits)
        self.swarm = Swarm(peer_id, clock=clock, loop=self._loop, quota=self.quota)

    def local_info(self) -> PeerInfo:
        """Our peer id and the addresses others may dial."""
        return PeerInfo(peer_id=self.peer_id, addresses=self.addresses)

    def learn(self, info: PeerInfo) -> None:
        """Remember addresses of a peer (bounded, oldest dropped)."""
        self.swarm.book.learn(info, self._clock.now())

    def pin(self, info: PeerInfo) -> None:
        """Remember addresses that an operator named for as long as this node runs."""
        self.swarm.book.pin(info)

    def serve(self, protocol: ProtocolSpec, handler: Handler) -> None:
        """Run `handler` as a task for each incoming stream; when it raises, the stream is reset."""
        wire_id = self.wire_id(protocol)
        self._answers.pop(wire_id, None)
        self._handlers[wire_id] = (protocol, handler)
        self.framings[wire_id] = framing_of(protocol)

    def answer(self, protocol: ProtocolSpec, function: Answer, *, reuses_streams: bool = False) -> None:
        """Answer each rpc with `function(peer_id, message)`; when it raises, the rpc's stream is reset.

        `reuses_streams`: one stream may carry many questions, and ours ends after the asker's end, not with the answer.
        """
        wire_id = self.wire_id(protocol)
        self._handlers.pop(wire_id, None)
        self._answers[wire_id] = (protocol, function, reuses_streams)
        self.framings[wire_id] = framing_of(protocol)

    def withdraw(self, protocol: ProtocolSpec) -> None:
        """Serve it no longer; streams that are open go on."""
        wire_id = self.wire_id(protocol)
        self._handlers.pop(wire_id, None)
        self._answers.pop(wire_id, None)
        self.framings.pop(wire_id, None)

    def wire_id(self, protocol: ProtocolSpec) -> str:
        """The protocol's id as peers of this network name it; libp2p's own protocols belong to no network."""
        return protocol.id.replace(OURS, self._prefix, 1) if protocol.id.startswith(OURS) else protocol.id

    async def rpc(self, peer: PeerId, protocol: ProtocolSpec, message: Any, *, timeout_s: float) -> Any:
        """Ask, and wait for the one answer. `timeout_s` covers the dial."""
        link: Link | None = None
        stream: PeerStream | None = None
        try:
            async with self._clock.deadline(timeout_s):
                link = await self.swarm.connect(peer)
                stream = self._open(link, protocol)
                await stream.send(message)
                answer = await stream.receive()
            if answer is None:
                raise StreamReset(WireCode.PROTOCOL_VIOLATION, f"{protocol.id} ended without an answer", peer_id=peer)
        except BaseException as error:
            # Frees the stream at both ends, also when the caller was cancelled.
            if stream is not None:
                stream.reset(WireCode.NONE)
            if isinstance(error, DeadlineExceeded):
                raise DeadlineExceeded(f"{short(peer)} did not answer {protocol.id} within {timeout_s:g} s") from error
            if isinstance(error, StreamReset) and link is not None and link.driver.is_closed:
                why = f": {link.driver.ending_reason}" if link.driver.ending_reason else ""
                raise PeerUnreachable(f"the connection to {short(peer)} was lost during {protocol.id}{why}") from error
            raise
        stream.finish_and_drain()
        return answer

    async def open(self, peer: PeerId, protocol: ProtocolSpec, *, timeout_s: float) -> PeerStream:
        """A new stream. An unsupported protocol shows at the first receive."""
        try:
            async with self._clock.deadline(timeout_s):
                link = await self.swarm.connect(peer)
                stream = self._open(link, protocol)
                # The peer may be the one who speaks first.
                link.transmit_soon()
                return stream
        except DeadlineExceeded as error:
            # The same as a handshake that times out a moment earlier: nobody there. No deadline of a request has passed.
            raise PeerUnreachable(f"no connection to {short(peer)} within {timeout_s:g} s") from error

    def rtt_s(self, peer: PeerId) -> float | None:
        """Smoothed round-trip time of the connection in use, or None."""
        link = self.swarm.link_to(peer)
        return None if link is None else link.driver.rtt_s

    def abort(self) -> None:
        """Every open stream is reset with SHUTDOWN, then the handlers are cancelled, oldest first; waits for nobody."""
        self.swarm.close()
        for task in list(self._tasks):
            task.cancel()

    async def close(self) -> None:
        """`abort`, and wait until the handlers are gone."""
        self.abort()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.swarm.wait_closed()

    def _open(self, link: Link, protocol: ProtocolSpec) -> PeerStream:
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
        return self._wrap(link, stream, protocol)

    def _wrap(self, link: Link, stream: FrameStream, protocol: ProtocolSpec) -> PeerStream:
        return PeerStream(
            link.driver,
            stream,
            protocol,
            transmit_soon=link.transmit_soon,
            on_frame=self._on_frame,
        )

    def on_opened(self, link: Link, stream: FrameStream) -> None:
        """A peer opened a stream: called by every endpoint of this node."""
        driver = link.driver
        if not driver.is_open(stream):
            # It was reset before anybody looked at it.
            return
        assert driver.peer_id is not None, "no stream opens before the peer is known"
        scope = self.quota.scope(driver.peer_id, stream.protocol_id)
        refusal = scope.enter(is_incoming=True)
        if refusal is not None:
            self.quota.refuse(refusal)
            driver.reset(stream, WireCode.RESOURCE_LIMIT)
            link.transmit_soon()
        elif stream.protocol_id in self._handlers and not self._admits(link, stream):
            scope.leave_incoming()
        elif (served := self._handlers.get(stream.protocol_id)) is not None:
            protocol, handler = served
            task = self._loop.create_task(self._run(handler, self._wrap(link, stream, protocol)), name=protocol.id)
            # Counted until its handler has returned, so that streams opened and reset at once leave no crowd of handlers.
            self._tasks[task] = None
            task.add_done_callback(partial(self._on_handled, scope))
        else:
            protocol, function, reuses_streams = self._answers[stream.protocol_id]
            stream.on_done = scope.leave_incoming
            answer = self._answer_all if reuses_streams else self._answer
            stream.on_change = partial(answer, link, stream, protocol, function)
            if not stream.frames:
                driver.expect_question(stream, self._clock.now())

    def _admits(self, link: Link, stream: FrameStream) -> bool:
        """The peer asks within its rate; else the stream is reset, and one that goes on like that loses its connection."""
        driver, now = link.driver, self._clock.now()
        assert driver.peer_id is not None
        if self.quota.admits_rpc(driver.peer_id, stream.protocol_id, now):
            return True
        driver.reset(stream, WireCode.RESOURCE_LIMIT)
        driver.count_waste(now)
        link.transmit_soon()
        return False

    def _on_handled(self, scope: StreamScope, task: asyncio.Task[None]) -> None:
        del self._tasks[task]
        scope.leave_incoming()

    async def _run(self, handler: Handler, stream: PeerStream) -> None:
        try:
            await handler(stream)
        except PeerError as error:
            stream.reset(self._code_of(error))
        except Unavailable:
            stream.reset(WireCode.RESOURCE_LIMIT)
        except asyncio.CancelledError:
            stream.reset(WireCode.SHUTDOWN)
            raise
        except Exception as error:
            stream.reset(WireCode.INTERNAL)
            self._report(stream.protocol_id, error)
        else:
            stream.abandon()

    def _answer(self, link: Link, stream: FrameStream, protocol: ProtocolSpec, function: Answer) -> None:
        driver = link.driver
        data = driver.read(stream)
        if data is None:
            if stream.has_ended:
                driver.reset(stream, WireCode.PROTOCOL_VIOLATION)
            return
        stream.on_change = partial(driver.check_silent, stream)
        reply = self._reply(link, stream, protocol, function, data)
        if reply is not None:
            driver.write_last(stream, reply)
            driver.check_silent(stream)
        link.transmit_soon()

    def _answer_all(self, link: Link, stream: FrameStream, protocol: ProtocolSpec, function: Answer) -> None:
        """As many questions as there are and as there is room to answer; the asker ends the stream, or its silence does."""
        driver, has_answered = link.driver, False
        while driver.may_write(stream) and (data := driver.read(stream)) is not None:
            reply = self._reply(link, stream, protocol, function, data)
            if reply is None or stream.write_code is not None:
                driver.reset(stream, WireCode.NONE)
                break
            driver.write(stream, reply)
            has_answered = True
        if stream.has_ended and not stream.frames:
            driver.finish(stream)
        elif has_answered and driver.is_open(stream):
            driver.expect_question(stream, self._clock.now())
        link.transmit_soon()

    def _reply(
        self, link: Link, stream: FrameStream, protocol: ProtocolSpec, function: Answer, data: bytes
    ) -> bytes | None:
        """What to answer; None if the stream was reset instead."""
        driver = link.driver
        if not self._admits(link, stream):
            return None
        if not driver.has_memory():
            self.quota.refuse(Refusal.MEMORY)
            driver.reset(stream, WireCode.RESOURCE_LIMIT)
            return None
        assert driver.peer_id is not None
        try:
            question = protocol.decode(data)
            if self._on_frame is not None:
                self._on_frame(driver.peer_id, question, data)
            return protocol.encode(function(driver.peer_id, question))
        except PeerError as error:
            driver.reset(stream, self._code_of(error))
        except Unavailable:
            driver.reset(stream, WireCode.RESOURCE_LIMIT)
        except Exception as error:
            driver.reset(stream, WireCode.INTERNAL)
            self._report(protocol.id, error)
        return None

    def _code_of(self, error: PeerError) -> int:
        """What the peer is told of its mistake, which is counted; a reset of its own is none."""
        if isinstance(error, StreamReset):
            return error.code
        self.quota.refuse(Refusal.ROOM if error.wire_code == WireCode.RESOURCE_LIMIT else Refusal.PROTOCOL)
        return error.wire_code

    def _report(self, protocol_id: str, error: Exception) -> None:
        """A bug in our own code: the peer sees INTERNAL, the loop's exception handler sees the traceback."""
        self._loop.call_exception_handler({"message": f"serving {protocol_id} failed", "exception": error})


class QuicTransport(SwarmTransport):
    """With one QUIC endpoint; `ip_version` is what `send_datagram` reaches."""

    def __init__(
        self,
        *,
        peer_id: PeerId,
        identity: Identity,
        clock: Clock,
        send_datagram: SendDatagram,
        addresses: tuple[bytes, ...] = (),
        ip_version: int = 4,
        limits: Limits | None = None,
        network: str = "",
        node_limits: NodeLimits | None = None,
        on_frame: OnFrame | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(
            peer_id=peer_id, clock=clock, addresses=addresses, network=network, node_limits=node_limits, on_frame=on_frame,
            loop=loop,
        )  # fmt: skip
        self._endpoint = QuicEndpoint(
            swarm=self.swarm,
            identity=identity,
            clock=clock,
            send_datagram=send_datagram,
            ip_version=ip_version,
            limits=limits or Limits(),
            framings=self.framings,
            on_opened=self.on_opened,
            loop=self._loop,
        )

    def receive_datagram(self, data: bytes, address: NetworkAddress) -> None:
        """Hand in one datagram that arrived for this node."""
        self._endpoint.receive_datagram(data, address)

    def abort(self) -> None:
        """Every open stream is reset with SHUTDOWN, then the handlers are cancelled, oldest first; waits for nobody."""
        super().abort()
        self._endpoint.close()


def framing_of(protocol: ProtocolSpec) -> Framing:
    """How its streams are cut."""
    return Framing(protocol.frame_bytes_max, protocol.fixed_bytes)
