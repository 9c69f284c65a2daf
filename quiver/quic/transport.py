"""`Transport` over a swarm: rpcs, streams and the handlers that serve them.

An answer is computed in the turn in which the question arrived, without a task.
"""

from __future__ import annotations

import asyncio
from functools import partial

from quiver.errors import PeerError, StreamReset, Unavailable, WireCode
from quiver.ids import PeerId
from quiver.ports import Answer, Clock, Handler, ProtocolSpec
from quiver.quic.asking import OURS, Asker, framing_of
from quiver.quic.certificate import Identity
from quiver.quic.endpoint import QuicEndpoint, SendDatagram
from quiver.quic.events import FrameStream, NetworkAddress
from quiver.quic.limits import Limits, NodeLimits, Quota, Refusal, StreamScope
from quiver.quic.link import Link
from quiver.quic.stream import OnFrame, PeerStream
from quiver.quic.swarm import Swarm
from quiver.values.peer import PeerInfo
from quiver.wire.framing import Framing

# How often is looked whether a peer has acknowledged the last of it: about a third of what it may take its time.
DRAIN_STEP_S = 0.01

__all__ = ["OURS", "QuicTransport", "SwarmTransport", "framing_of"]


class SwarmTransport(Asker):
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
        loop = loop or asyncio.get_running_loop()
        quota = Quota(node_limits)
        swarm = Swarm(peer_id, clock=clock, loop=loop, quota=quota)
        super().__init__(swarm=swarm, quota=quota, clock=clock, network=network, on_frame=on_frame, loop=loop)
        self.peer_id = peer_id
        self.addresses = addresses
        self.framings: dict[str, Framing] = {}
        "Every protocol that is served."
        self._handlers: dict[str, tuple[ProtocolSpec, Handler]] = {}
        self._answers: dict[str, tuple[ProtocolSpec, Answer, bool]] = {}
        self._tasks: dict[asyncio.Task[None], None] = {}

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

    def abort(self) -> None:
        """Every open stream is reset with SHUTDOWN, then the handlers are cancelled, oldest first; waits for nobody."""
        self.swarm.close()
        self._deadlines.close()
        for task in list(self._tasks):
            task.cancel()

    async def drain(self, *, timeout_s: float) -> None:
        """Wait until peers have what was written on streams that we finished; for silent ones not at all."""
        until_s = self._clock.now() + timeout_s
        while self._clock.now() < until_s and any(
            link.driver.has_last_words and not link.driver.is_silent for link in self.swarm.links
        ):
            await self._clock.sleep(DRAIN_STEP_S)

    async def close(self) -> None:
        """`abort`, and wait until the handlers are gone."""
        self.abort()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.swarm.wait_closed()

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
            task.add_done_callback(partial(self._on_handled, driver.peer_id, scope))
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

    def _on_handled(self, peer: PeerId, scope: StreamScope, task: asyncio.Task[None]) -> None:
        del self._tasks[task]
        scope.leave_incoming()
        if self.swarm.link_to(peer) is None:
            # Its last connection went first, and left this peer in the books.
            self.quota.forget(peer)

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
        reply = self._reply(link, stream, protocol, function, data)
        if reply is not None:
            driver.write_last(stream, reply)
        driver.expect_silence(stream)
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
        self, *, peer_id: PeerId, identity: Identity, clock: Clock, send_datagram: SendDatagram,
        addresses: tuple[bytes, ...] = (), ip_version: int = 4, limits: Limits | None = None, network: str = "",
        node_limits: NodeLimits | None = None, on_frame: OnFrame | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:  # fmt: skip
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
