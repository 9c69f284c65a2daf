"""Message-level transport: whole frames, delayed by link rules.

Streams are reliable and ordered; loss is delay. Only partition, reset and crash end a stream. A unary rpc whose peer
answers with a plain function costs two heap entries and no task there; with `ask`, none here either.

Fidelity: `encoded` encodes and decodes every frame; `sized` encodes once for size and digest and hands over the frozen
value itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from math import inf
from typing import Any, Protocol

from quiver.errors import DeadlineExceeded, PeerError, PeerUnreachable, StreamReset, UsageError, WireCode
from quiver.ids import PeerId
from quiver.params import Params
from quiver.ports import Answer, Handler, OnEnd, ProtocolSpec
from quiver.runtime import Deadline
from quiver.values.peer import PeerInfo
from sim.asked import Asked
from sim.loop import Environment
from sim.serving import answering, handle
from sim.stream import SimStream
from sim.timeouts import Timeouts, Waiting, expire
from sim.trace import RunTrace

# Weight of the newest sample in the smoothed round-trip time (RFC 6298, section 2: alpha = 1/8).
RTT_GAIN = 0.125


class Links(Protocol):
    """One-way delays between nodes, by index."""

    def delay_s(self, source: int, destination: int, size_bytes: int, now: float) -> float:
        """Seconds until a frame arrives; infinity while the two are partitioned."""

    def handshake_s(self, source: int, destination: int, now: float) -> float:
        """Extra seconds before the first frame of a new connection; infinity while the two are partitioned."""


class UniformLinks:
    """Every pair the same: for tests and tiny worlds."""

    def __init__(self, one_way_s: float = 0.01) -> None:
        self.one_way_s = one_way_s

    def delay_s(self, source: int, destination: int, size_bytes: int, now: float) -> float:
        return self.one_way_s

    def handshake_s(self, source: int, destination: int, now: float) -> float:
        return 2 * self.one_way_s


class Network:
    """All nodes of one world."""

    def __init__(
        self,
        env: Environment,
        links: Links,
        trace: RunTrace,
        *,
        params: Params | None = None,
        encoded: bool = False,
        idle_timeout_s: float = 30.0,
        connections_max: int = 256,
        peers_max: int = 1024,
    ) -> None:
        self.env = env
        self.loop = env.loop
        self.links = links
        self.trace = trace
        self.params = params or Params.default()
        self.encoded = encoded
        self.idle_timeout_s = idle_timeout_s
        "A connection to a silent peer ends after this (QUIC idle timeout)."
        self.connections_max = connections_max
        self.peers_max = peers_max
        self.nodes: dict[PeerId, SimTransport] = {}
        self.timeouts = Timeouts(env.loop)

    def node(self, peer_id: PeerId, *, index: int | None = None) -> SimTransport:
        """A transport for a (re)started node; `index` is its place in the link matrix, by default its number."""
        old = self.nodes.get(peer_id)
        if old is not None and old.up:
            raise UsageError(f"node {peer_id.hex()} is up already")
        if index is None:
            index = old.index if old is not None else len(self.nodes)
        node = self.nodes[peer_id] = SimTransport(self, peer_id, index)
        return node

    def pack(self, protocol: ProtocolSpec, message: Any) -> tuple[Any, bytes]:
        """What the receiver will get, and the bytes that were on the wire."""
        data = protocol.encode(message)
        return (protocol.decode(data) if self.encoded else message), data


class SimTransport:
    """The `Transport` port of one simulated node."""

    __slots__ = (
        "network", "peer_id", "index", "up", "answers", "handlers", "_connections", "_rtts", "_packed", "streams", "_tasks",
        "_loop",
    )  # fmt: skip

    def __init__(self, network: Network, peer_id: PeerId, index: int) -> None:
        self.network = network
        self.peer_id = peer_id
        self.index = index
        self.up = True
        self.answers: dict[str, Answer] = {}
        self.handlers: dict[str, tuple[ProtocolSpec, Handler]] = {}
        self._connections: dict[int, float] = {}
        "Node -> when its connection is ready, least recently used first."
        self._rtts: dict[PeerId, float] = {}
        self._packed: tuple[Any, ProtocolSpec, bytes] | None = None
        "The last question with its bytes: a lookup asks many peers the same."
        self.streams: dict[SimStream, None] = {}
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self._loop = network.loop

    def local_info(self) -> PeerInfo:
        return PeerInfo(peer_id=self.peer_id)

    def learn(self, info: PeerInfo) -> None:
        """Nothing to remember: in the simulation the peer id is the address."""

    def serve(self, protocol: ProtocolSpec, handler: Handler) -> None:
        self.handlers[protocol.id] = (protocol, handler)

    def answer(self, protocol: ProtocolSpec, function: Answer) -> None:
        self.answers[protocol.id] = function
        self.handlers[protocol.id] = (protocol, answering(function))

    def rtt_s(self, peer: PeerId) -> float | None:
        return self._rtts.get(peer)

    def on_rtt(self, peer: PeerId, asked_s: float, setup_s: float) -> None:
        """An answer came to what was asked at `asked_s` and left after a handshake of `setup_s`."""
        if not self.network.peers_max:
            return
        sample_s = max(self.network.env._now - asked_s - setup_s, 0.0)
        rtts = self._rtts
        old = rtts.get(peer)
        rtts[peer] = sample_s if old is None else old + RTT_GAIN * (sample_s - old)
        if old is None and len(rtts) > self.network.peers_max:
            del rtts[next(iter(rtts))]

    def _pack_question(self, protocol: ProtocolSpec, message: Any) -> tuple[Any, bytes]:
        """As `Network.pack`; messages are frozen, so the one of last time has the bytes of last time."""
        packed = self._packed
        if packed is None or packed[0] is not message or packed[1] is not protocol:
            packed = self._packed = (message, protocol, protocol.encode(message))
        data = packed[2]
        return (protocol.decode(data) if self.network.encoded else message), data

    def _setup_s(self, other: SimTransport, now: float) -> float:
        """Handshake time still to wait before a frame can leave for `other`; 0 on a live connection, infinity without a way."""
        connections, index = self._connections, other.index
        if index in connections:
            ready_at = connections[index] = connections.pop(index)
            return ready_at - now if ready_at > now else 0.0
        setup_s = self.network.links.handshake_s(self.index, index, now)
        if setup_s == inf:
            return setup_s
        connections_max = self.network.connections_max
        theirs = other._connections
        connections[index] = theirs[self.index] = now + setup_s
        if len(connections) > connections_max:
            del connections[next(iter(connections))]
        if len(theirs) > connections_max:
            del theirs[next(iter(theirs))]
        return setup_s

    def _other(self, peer: PeerId) -> SimTransport:
        other = self.network.nodes.get(peer)
        if other is None or not self.up:
            raise PeerUnreachable(f"no node {peer.hex()}: nobody has told us an address")
        return other

    def _send_question(
        self, other: SimTransport, protocol: ProtocolSpec, message: Any, waiting: Waiting, timeout_s: float
    ) -> float:
        """Returns the handshake time it has to wait for first."""
        network = self.network
        now = network.env._now
        setup_s = self._setup_s(other, now)
        sent, data = self._pack_question(protocol, message)
        arrival_s = now + setup_s + network.links.delay_s(self.index, other.index, len(data), now)
        if arrival_s != inf:
            self._loop.deliver_at(arrival_s, other._on_question, self, protocol, sent, data, waiting)
        network.timeouts[timeout_s].add(waiting)
        return setup_s

    async def rpc(self, peer: PeerId, protocol: ProtocolSpec, message: Any, *, timeout_s: float) -> Any:
        other = self._other(peer)
        if protocol.id not in other.answers and protocol.id in other.handlers:
            return await self._rpc_over_stream(peer, protocol, message, timeout_s)
        future: asyncio.Future[Any] = asyncio.Future(loop=self._loop)
        asked_s = self.network.env._now
        setup_s = self._send_question(other, protocol, message, future, timeout_s)
        try:
            answer = await future
        finally:
            self.network.timeouts.on_done(timeout_s)
        self.on_rtt(peer, asked_s, setup_s)
        return answer

    def ask(
        self, peer: PeerId, protocol: ProtocolSpec, message: Any, *, timeout_s: float, on_end: OnEnd, about: Any = None
    ) -> None:
        """As `rpc`, with one call at the end in place of a task, for what peers answer with a plain function."""
        other = self._other(peer)
        asked = Asked(self, peer, timeout_s, on_end, about)
        asked.setup_s = self._send_question(other, protocol, message, asked, timeout_s)

    async def _rpc_over_stream(self, peer: PeerId, protocol: ProtocolSpec, message: Any, timeout_s: float) -> Any:
        async with Deadline(timeout_s):
            stream = await self.open(peer, protocol, timeout_s=timeout_s)
            try:
                await stream.send(message)
                answer = await stream.receive()
                if answer is None:
                    raise StreamReset(
                        WireCode.PROTOCOL_VIOLATION, "the peer ended the rpc without an answer", peer_id=peer
                    )
                stream.finish()
                return answer
            except BaseException:
                stream.reset(WireCode.NONE)
                raise

    def _on_question(
        self, asker: SimTransport, protocol: ProtocolSpec, message: Any, data: bytes, waiting: Waiting
    ) -> None:
        if not self.up:
            return
        network = self.network
        now = network.env._now
        network.trace.frame(now, asker.index, self.index, message, data)
        function = self.answers.get(protocol.id)
        try:
            if function is None:
                raise StreamReset(WireCode.NEGOTIATION_FAILED, f"{protocol.id} is not served", peer_id=self.peer_id)
            reply, answer = network.pack(protocol, function(asker.peer_id, message))
        except PeerError as error:
            delay_s = network.links.delay_s(self.index, asker.index, 8, now)
            failure = StreamReset(
                error.code if isinstance(error, StreamReset) else error.wire_code, str(error), peer_id=self.peer_id
            )
            if delay_s != inf:
                network.loop.deliver_at(now + delay_s, _fail, waiting, failure)
            return
        arrival_s = now + network.links.delay_s(self.index, asker.index, len(answer), now)
        if arrival_s != inf:
            self._loop.deliver_at(arrival_s, asker._on_answer, self, reply, answer, waiting)

    def _on_answer(self, answerer: SimTransport, message: Any, data: bytes, waiting: Waiting) -> None:
        if self.up:
            network = self.network
            network.trace.frame(network.env._now, answerer.index, self.index, message, data)
            if not waiting.done():
                waiting.set_result(message)

    async def open(self, peer: PeerId, protocol: ProtocolSpec, *, timeout_s: float) -> SimStream:
        network, other = self.network, self._other(peer)
        now = network.env._now
        setup_s = self._setup_s(other, now)
        if setup_s:
            future: asyncio.Future[None] = self._loop.create_future()
            if other.up and setup_s != inf:
                self._loop.deliver_at(now + setup_s, _settle, future)
            timer = self._loop.call_later(timeout_s, expire, future, timeout_s)
            try:
                await future
            except DeadlineExceeded:
                self._connections.pop(other.index, None)
                raise
            finally:
                timer.cancel()
        # The node may have restarted while we dialled.
        other = network.nodes[peer]
        mine, theirs = SimStream(self, other, protocol), SimStream(other, self, protocol)
        mine.twin, theirs.twin = theirs, mine
        theirs.accepted = False
        self.streams[mine] = None
        if not other.up:
            self._loop.deliver_at(network.env._now + network.idle_timeout_s, mine.on_reset, WireCode.NONE)
        return mine

    def accept(self, stream: SimStream) -> None:
        """The first frame of a stream arrived here."""
        entry = self.handlers.get(stream.protocol.id)
        if entry is None:
            stream.reset(WireCode.NEGOTIATION_FAILED)
            return
        self.streams[stream] = None
        self._spawn(handle(entry[1], stream))

    def _spawn(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        task = self._loop.create_task(coroutine)
        self._tasks[task] = None
        task.add_done_callback(self._on_task_done)

    def _on_task_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            # A handler may only end with PeerError or Unavailable; anything else is a bug and must stop the run.
            self._loop.call_exception_handler({"message": "a stream handler failed", "exception": error, "task": task})

    def crash(self) -> None:
        """Gone without goodbye: peers notice when their connections idle out."""
        if not self.up:
            return
        self.up = False
        for task in list(self._tasks):
            task.cancel()
        when = self.network.env._now + self.network.idle_timeout_s
        for stream in list(self.streams):
            twin = stream.twin
            stream.on_reset(WireCode.NONE)
            self._loop.deliver_at(when, twin.on_reset, WireCode.NONE)
        self.streams.clear()
        self._connections.clear()

    async def close(self) -> None:
        for stream in list(self.streams):
            stream.reset(WireCode.SHUTDOWN)
        for task in list(self._tasks):
            task.cancel()
        self.streams.clear()
        self._connections.clear()
        self.up = False


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _fail(waiting: Waiting, error: Exception) -> None:
    if not waiting.done():
        waiting.set_exception(error)
