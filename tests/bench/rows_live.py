"""Round trips over real UDP sockets on one connection: our host against aioquic's own asyncio layer, both on uvloop.

Both ends run in this process, so a figure is the CPU time of client and server together. The peer authenticates nobody, has no
multistream-select, no frames and no limits: it is aioquic as it comes. Each repetition has fresh connections, because
that layer transmits ever more often as a connection under uvloop (a clock of whole milliseconds) grows older: its frames went
from 47 to 303 µs within one run, and a ratio against that would flatter us.
"""

from __future__ import annotations

import asyncio
from functools import partial
from importlib.metadata import version
from typing import Any

import uvloop
from aioquic.asyncio import QuicConnectionProtocol, connect, serve
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import QuicEvent, StreamDataReceived

from quiver.identity.keys import KeyPair
from quiver.live.libp2p.host import Host, Kind
from quiver.ports import Stream
from quiver.quic.limits import Limits, NodeLimits
from quiver.quic.rate import UNLIMITED
from quiver.quic.tls import make_configuration
from tests.bench.measure import cpu_s, mean
from tests.bench.report import Goal, Row
from tests.unit.quic.pair import identity

QUESTION, ANSWER = b"q" * 200, b"a" * 400
# Questions under way at once; on streams of their own, or on this many long-lived ones.
AT_ONCE, STREAMS = 32, 4


class RawCodec:
    """A protocol whose messages are bytes."""

    id, frame_bytes_max, fixed_bytes = "/quiver/bench/1.0.0", 4096, 0

    def encode(self, message: bytes) -> bytes:
        """As it is."""
        return message

    def decode(self, data: bytes) -> bytes:
        """As it is."""
        return data

    def size(self, message: bytes) -> int:
        """Bytes on the wire, without the prefix."""
        return len(message)


RPC, TALK = RawCodec(), RawCodec()
TALK.id = "/quiver/bench-talk/1.0.0"


async def _answer_all(stream: Stream) -> None:
    while await stream.receive() is not None:
        await stream.send(ANSWER)


class OurHosts:
    """Two hosts with one connection."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        loop.run_until_complete(self._start())

    async def _start(self) -> None:
        # One peer asks more here than a node grants a stranger.
        limits = NodeLimits(rpc_rate=UNLIMITED)
        self.hosts = [Host(KeyPair(bytes([n]) * 32), kinds=(Kind.QUIC,), node_limits=limits) for n in (1, 2)]
        for host in self.hosts:
            await host.start()
        client, server = self.hosts
        server.answer(RPC, lambda peer, message: ANSWER)
        server.serve(TALK, _answer_all)
        client.learn(server.local_info())
        self.streams = [await client.open(server.peer_id, TALK, timeout_s=5) for _ in range(STREAMS)]

    def ask(self, requests: int) -> None:
        """Each on a stream of its own."""
        client, server = self.hosts

        async def worker() -> None:
            for _ in range(requests // AT_ONCE):
                assert await client.rpc(server.peer_id, RPC, QUESTION, timeout_s=10) == ANSWER

        self._loop.run_until_complete(_together(worker() for _ in range(AT_ONCE)))

    def talk(self, requests: int) -> None:
        """On long-lived streams."""

        async def worker(stream: Any) -> None:
            for _ in range(requests // AT_ONCE):
                for _ in range(AT_ONCE // STREAMS):
                    await stream.send(QUESTION)
                for _ in range(AT_ONCE // STREAMS):
                    assert await stream.receive() == ANSWER

        self._loop.run_until_complete(_together(worker(stream) for stream in self.streams))

    def close(self) -> None:
        """Both."""
        for host in self.hosts:
            self._loop.run_until_complete(host.close())


async def _together(coroutines: Any) -> None:
    await asyncio.gather(*coroutines)


class _Server(QuicConnectionProtocol):
    """Answers as many times as whole questions arrive on a stream."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._pending: dict[int, int] = {}

    def quic_event_received(self, event: QuicEvent) -> None:
        """aioquic transmits after it has handed over all events of a datagram."""
        if isinstance(event, StreamDataReceived):
            size = self._pending.pop(event.stream_id, 0) + len(event.data)
            count, rest = divmod(size, len(QUESTION))
            if rest:
                self._pending[event.stream_id] = rest
            if count or event.end_stream:
                self._quic.send_stream_data(event.stream_id, ANSWER * count, end_stream=event.end_stream)


class _Client(QuicConnectionProtocol):
    """A future for each stream or each group of answers."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.waiting: dict[int, tuple[int, asyncio.Future[None]]] = {}

    def quic_event_received(self, event: QuicEvent) -> None:
        """Wakes whoever has all it waits for."""
        if isinstance(event, StreamDataReceived) and event.stream_id in self.waiting:
            left, future = self.waiting.pop(event.stream_id)
            left -= len(event.data)
            if left > 0:
                self.waiting[event.stream_id] = (left, future)
            else:
                future.set_result(None)

    def ask(self, stream_id: int, count: int, *, end_stream: bool) -> asyncio.Future[None]:
        """Done when `count` answers are there."""
        future: asyncio.Future[None] = self._loop.create_future()
        self.waiting[stream_id] = (count * len(ANSWER), future)
        self._quic.send_stream_data(stream_id, QUESTION * count, end_stream=end_stream)
        self._transmit_soon()
        return future


class BareAioquic:
    """aioquic's own server and client."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        loop.run_until_complete(self._start())

    def _configuration(self, *, is_client: bool) -> QuicConfiguration:
        limits = Limits()
        return make_configuration(
            identity(1), is_client=is_client, idle_timeout_s=limits.idle_timeout_s,
            stream_window_bytes=limits.stream_window_bytes, connection_window_bytes=limits.connection_window_bytes,
        )  # fmt: skip

    async def _start(self) -> None:
        self.server = await serve(
            "127.0.0.1", 0, configuration=self._configuration(is_client=False), create_protocol=_Server
        )  # fmt: skip
        port = self.server._transport.get_extra_info("sockname")[1]
        self.context = connect(
            "127.0.0.1", port, configuration=self._configuration(is_client=True), create_protocol=_Client
        )  # fmt: skip
        client = await self.context.__aenter__()
        assert isinstance(client, _Client)
        self.client = client
        self.streams: list[int] = []
        for _ in range(STREAMS):
            stream_id = client._quic.get_next_available_stream_id()
            await client.ask(stream_id, 1, end_stream=False)
            self.streams.append(stream_id)

    def ask(self, requests: int) -> None:
        """Each on a stream of its own."""
        client = self.client

        async def worker() -> None:
            for _ in range(requests // AT_ONCE):
                await client.ask(client._quic.get_next_available_stream_id(), 1, end_stream=True)

        self._loop.run_until_complete(_together(worker() for _ in range(AT_ONCE)))

    def talk(self, requests: int) -> None:
        """On long-lived streams."""

        async def worker(stream_id: int) -> None:
            for _ in range(requests // AT_ONCE):
                await self.client.ask(stream_id, AT_ONCE // STREAMS, end_stream=False)

        self._loop.run_until_complete(_together(worker(stream_id) for stream_id in self.streams))

    def close(self) -> None:
        """Both."""
        self._loop.run_until_complete(self.context.__aexit__(None, None, None))
        self.server.close()


def _measure(
    loop: asyncio.AbstractEventLoop, way: str, requests: int, repetitions: int
) -> tuple[list[float], list[float]]:
    """CPU seconds of each repetition, ours and the peer's; who goes first alternates."""
    times: tuple[list[float], list[float]] = ([], [])
    for repetition in range(repetitions):
        for side in (0, 1) if repetition % 2 else (1, 0):
            pair = (OurHosts, BareAioquic)[side](loop)
            exchange = getattr(pair, way)
            exchange(AT_ONCE * 10)
            times[side].append(cpu_s(partial(exchange, requests)))
            pair.close()
    return times


def rows(*, quick: bool, command: str) -> list[Row]:
    """CPU time of a round trip, against the peer and against 40 µs."""
    requests, repetitions = (640, 5) if quick else (3200, 10)
    loop = uvloop.new_event_loop()
    found = []
    for name, way in (("a stream a request", "ask"), (f"frames on {STREAMS} long-lived streams", "talk")):
        mine, theirs = _measure(loop, way, requests, repetitions)
        cost_us = [spent / requests * 1e6 for spent in mine]
        label = f"live: round trip over UDP, {name}, {AT_ONCE} at once"
        shown = f"{mean(cost_us):,.0f} µs CPU, both ends"
        found.append(
            Row(
                name=label, ours=shown,
                peer=f"aioquic {version('aioquic')}, uvloop: {mean(theirs) / requests * 1e6:,.0f} µs CPU", limit="-",
                ratios=tuple(own / other for own, other in zip(mine, theirs, strict=True)),
                goal=Goal(value=1.2, at_most=True), command=command,
            )
        )  # fmt: skip
        found.append(
            Row(
                name=f"{label}: against 40 µs an end", ours=shown, peer="-", limit="80 µs CPU, both ends",
                ratios=tuple(cost / 80 for cost in cost_us), goal=Goal(value=1.0, floor=8.0, at_most=True), command=command,
            )
        )  # fmt: skip
    loop.close()
    return found
