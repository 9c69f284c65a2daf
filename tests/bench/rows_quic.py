"""A request and its reply on a stream of its own, through our driver and through bare aioquic, both in memory.

The bare pair has the same certificates, windows and datagrams; it skips multistream-select, frames, events and credit.
Datagrams arrive a virtual millisecond later.
"""

from __future__ import annotations

from functools import partial
from importlib.metadata import version
from typing import Any

from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import StreamDataReceived

from quiver.quic.driver import Driver
from quiver.quic.events import Changed
from quiver.quic.limits import Limits
from quiver.quic.tls import make_configuration
from tests.bench.measure import interleave, mean
from tests.bench.report import Goal, Row
from tests.unit.quic.pair import FRAMING, PROTOCOL, A, B, Pair, identity

HOP_S = 0.001
QUESTION, ANSWER = b"q" * 200, b"a" * 400
# Round trips until a pair has nothing more to say; a longer exchange means that the two answer each other for ever.
EXCHANGES_MAX = 1000


def _exchange(ends: tuple[Any, Any], now: float, serve: Any) -> float:
    """Carry datagrams both ways until neither side has one; returns the new time."""
    client, server = ends
    for _ in range(EXCHANGES_MAX):
        is_quiet = True
        for source, target, address in ((client, server, A), (server, client, B)):
            datagrams = source.datagrams_to_send(now)
            if datagrams:
                is_quiet, now = False, now + HOP_S
                for data, _ in datagrams:
                    target.receive_datagram(data, address, now)
                serve(target)
        if is_quiet:
            return now
    raise RuntimeError(f"still talking after {EXCHANGES_MAX} exchanges")


class OurPair:
    """Two drivers after their handshake."""

    def __init__(self) -> None:
        pair = Pair(delay_s=HOP_S).run()
        self.ends: tuple[Driver, Driver] = (pair.client, pair.server)
        self.now: float = pair.now
        self.answers = 0

    def _serve(self, end: Driver) -> None:
        while (event := end.next_event()) is not None:
            if isinstance(event, Changed) and (frame := end.read(event.stream)) is not None:
                if frame == ANSWER:
                    self.answers += 1
                else:
                    end.write_last(event.stream, ANSWER)

    def run(self, requests: int) -> None:
        """One request after another."""
        client, self.answers = self.ends[0], 0
        for _ in range(requests):
            client.write_last(client.open(PROTOCOL, FRAMING), QUESTION)
            self.now = _exchange(self.ends, self.now, self._serve)
        assert self.answers == requests


class _Bare(QuicConnection):
    """aioquic with positional time, so that one loop drives both pairs."""

    def datagrams_to_send(self, now: float) -> list[Any]:
        return list(super().datagrams_to_send(now=now))

    def receive_datagram(self, data: bytes, address: Any, now: float) -> None:
        super().receive_datagram(data, address, now=now)


class BarePair:
    """Two bare connections after their handshake."""

    def __init__(self) -> None:
        limits, self.answers, self.now = Limits(), 0, 0.0
        connections = []
        for is_client, shown in ((True, identity(1)), (False, identity(2))):
            configuration = make_configuration(
                shown, is_client=is_client, idle_timeout_s=limits.idle_timeout_s,
                stream_window_bytes=limits.stream_window_bytes, connection_window_bytes=limits.connection_window_bytes,
            )  # fmt: skip
            original = None if is_client else connections[0].original_destination_connection_id
            connections.append(_Bare(configuration=configuration, original_destination_connection_id=original))
        client, server = self.ends = (connections[0], connections[1])
        client.connect(B, now=self.now)
        for data, _ in client.datagrams_to_send(self.now):
            server.receive_datagram(data, A, self.now)
        self.now = _exchange(self.ends, self.now, self._serve)

    def _serve(self, end: _Bare) -> None:
        while (event := end.next_event()) is not None:
            if isinstance(event, StreamDataReceived) and event.end_stream:
                if end is self.ends[0]:
                    self.answers += 1
                else:
                    end.send_stream_data(event.stream_id, ANSWER, end_stream=True)

    def run(self, requests: int) -> None:
        """One request after another."""
        client, self.answers = self.ends[0], 0
        for _ in range(requests):
            client.send_stream_data(client.get_next_available_stream_id(), QUESTION, end_stream=True)
            self.now = _exchange(self.ends, self.now, self._serve)
        assert self.answers == requests


def rows(*, quick: bool, command: str) -> list[Row]:
    """CPU time of a round trip; the pairs live through all repetitions."""
    requests, repetitions = (200, 5) if quick else (1000, 8)
    ours, peer = interleave(partial(OurPair().run, requests), partial(BarePair().run, requests), repetitions)
    return [
        Row(
            name=f"quic: round trip on a stream of its own, {requests:,} in turn",
            ours=f"{mean(ours) / requests * 1e6:,.0f} µs CPU",
            peer=f"aioquic {version('aioquic')}: {mean(peer) / requests * 1e6:,.0f} µs CPU",
            limit="-", ratios=tuple(own / theirs for own, theirs in zip(ours, peer, strict=True)),
            goal=Goal(value=1.3, at_most=True), command=command,
        )
    ]  # fmt: skip
