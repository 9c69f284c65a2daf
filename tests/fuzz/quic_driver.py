"""A QUIC peer that proved who it is and then does anything: bytes on streams, resets, frames of QUIC itself, datagrams from nowhere.

An input is steps of two bytes (what, how much) and the bytes the step takes. Two aioquic connections are joined in memory; a pair
serves many inputs while it lives, because a handshake costs more than an input.
"""

from aioquic import tls
from aioquic.quic.connection import QuicConnectionState

from quiver.quic.events import Closed, Opened
from quiver.quic.limits import Limits
from quiver.quic.rate import Rate
from quiver.wire.framing import encode_frame
from quiver.wire.multistream import encode_proposal
from tests.unit.quic.pair import FRAMING, PROTOCOL, A, Pair

LIMITS = Limits(
    streams_max=8, waste=Rate(burst=1000, per_s=1e6), stream_window_bytes=4096, connection_window_bytes=16_384
)
INPUTS_A_PAIR = 200
SEEDS = [
    bytes((0, len(first))) + first + b"\1\0" + b"\3\0"
    for first in (
        encode_proposal(PROTOCOL) + encode_frame(b"question"),
        encode_proposal("/other/1.0.0"),
        b"\xff" * 30,
    )
] + [
    # PING; STREAM of stream 0 with an offset; RESET_STREAM, STOP_SENDING and MAX_DATA.
    b"\4\1\1" + b"\4\7\x0e\0\7\3abc" + b"\4\4\4\0\7\0" + b"\4\3\5\0\7" + b"\4\2\x10\7",
    b"\5\x20" + b"\xc0\0\0\0\1\x08" + bytes(26) + b"\6\2xx\7\0",
]

_pairs: list[Pair] = []
_count = 0


def one_input(data: bytes) -> None:
    global _count
    if _count % INPUTS_A_PAIR == 0 or not _pairs or _pairs[0].server.is_closed or _pairs[0].client.is_closed:
        _pairs[:] = [Pair(limits=LIMITS).run()]
    _count += 1
    pair = _pairs[0]
    streams: list[int] = []
    at = 0
    while at + 2 <= len(data) and not pair.client.is_closed:
        what, size = data[at] % 8, data[at + 1]
        payload = data[at + 2 : at + 2 + size] if what in _TAKES_BYTES else b""
        at += 2 + len(payload)
        _step(pair, streams, what, size, payload)
        _look(pair)
    pair.run(1.0)
    _serve(pair)
    for stream in list(pair.client._streams.values()):
        pair.client.reset(stream, 0)
    for stream_id in streams:
        if pair.quics[0].is_receiving(stream_id):
            pair.quics[0].reset_stream(stream_id, 0)
            pair.quics[0].stop_stream(stream_id, 0)
    pair.run(2.0)
    _look(pair)
    assert len(pair.closed(pair.server)) == pair.server.is_closed
    for seen in pair.seen.values():
        seen.clear()


_TAKES_BYTES = frozenset({0, 4, 5, 6})


def _step(pair: Pair, streams: list[int], what: int, size: int, payload: bytes) -> None:
    quic = pair.quics[0]
    if what == 0 and len(quic._streams) < LIMITS.streams_max:
        streams.append(quic.get_next_available_stream_id())
        quic.send_stream_data(streams[-1], payload)
        # The client's driver knows nothing of it.
        pair.client._ignored[streams[-1]] = None
    elif what in (1, 6) and streams:
        stream = quic._streams.get(streams[size % len(streams)])
        if stream is not None and stream.sender._buffer_fin is None:
            quic.write(stream.stream_id, payload, end_stream=what == 1)
    elif what == 2 and streams:
        if quic.is_receiving(streams[size % len(streams)]):
            quic.reset_stream(streams[size % len(streams)], size)
    elif what == 3:
        pair.run(size / 100)
        _serve(pair)
    elif what == 4:
        _inject(pair, payload)
    elif what == 5:
        pair.server.receive_datagram(payload, A, pair.now)
    elif what == 7 and pair.client.streams_open < 4 and len(quic._streams) < LIMITS.streams_max:
        pair.client.write(pair.client.open(PROTOCOL, FRAMING), bytes(size))


def _inject(pair: Pair, frames: bytes) -> None:
    """A packet of the client's with whatever frames; short ones are padded, because too little cannot be encrypted."""
    quic = pair.quics[0]
    if quic._state is not QuicConnectionState.CONNECTED:
        return
    number = quic._packet_number
    quic._packet_number += 1
    crypto = quic._cryptos[tls.Epoch.ONE_RTT]
    header = bytes((0x41 | crypto.key_phase << 2,)) + quic._peer_cid.cid + (number & 0xFFFF).to_bytes(2)
    packet = crypto.encrypt_packet(header, frames.ljust(4, b"\0"), number)
    pair.server.receive_datagram(packet, A, pair.now)
    pair.turn(pair.server)


def _serve(pair: Pair) -> None:
    """As an application: answer what is whole."""
    for stream in pair.opened():
        while (frame := pair.server.read(stream)) is not None:
            if stream.write_code is None and not stream.is_finished and pair.server.may_write(stream):
                pair.server.write(stream, frame)
        if stream.has_ended:
            pair.server.finish(stream)
    pair.seen[pair.server] = [event for event in pair.seen[pair.server] if isinstance(event, Opened | Closed)]


def _look(pair: Pair) -> None:
    """What is held is bounded, and the books agree."""
    driver, quic = pair.server, pair.quics[1]
    assert driver.streams_open <= LIMITS.streams_max + 4
    assert quic._unread_total == sum(quic._unread.values()) >= 0
    assert driver._received_bytes_total() <= 2 * LIMITS.connection_window_bytes + 4096
    assert all(stream_id in driver._streams for stream_id in driver._negotiating)
