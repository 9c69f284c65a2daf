"""The DHT message of libp2p, protobuf `dht.pb.Message` (libp2p kad-dht specification, rpc messages).

Answers name the same few thousand peers again and again: each `PeerInfo` is encoded once, and bytes seen before give the same
`PeerInfo` object back. Both memos are bounded by entries and by bytes, and forget everything at the bound; what they hold is a
function of its key, so no answer depends on what was asked before.
Of a peer we read id and addresses. Its `connection` (how the sender is connected to it) is a claim nobody can check: it is
skipped, and not written, which means "not connected". Fields of a newer version, and py-libp2p's signed records, are skipped.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from quiver.errors import MalformedMessage
from quiver.ids import PeerId
from quiver.values.kad import KadMessage, KadType, Record
from quiver.values.peer import PeerInfo
from quiver.wire.protobuf import (
    BYTES,
    VARINT,
    bytes_field,
    decode_text,
    decode_varint,
    encode_varint,
    fields,
    read_field,
    tag,
    varint_field,
)

KAD_QUIVER = "/quiver/kad/1.0.0"
KAD_IPFS = "/ipfs/kad/1.0.0"
# 20 closer peers and 64 providers with ten addresses each take 46 KB. Public nodes may send values: up to 4 MiB (go, py).
FRAME_BYTES_MAX = 64 * 1024
# A peer of two bytes takes a hundred as an object: a message has at most this many of each kind, each with so many addresses.
PEERS_MAX, ADDRESSES_MAX = 1024, 256

_TYPE, _KEY, _RECORD, _CLOSER, _PROVIDERS = tag(1, VARINT), tag(2, BYTES), tag(3, BYTES), tag(8, BYTES), tag(9, BYTES)
_CLOSER_TAG, _PROVIDERS_TAG = bytes((_CLOSER,)), bytes((_PROVIDERS,))
_PEER_ID, _PEER_ADDRESS = tag(1, BYTES), tag(2, BYTES)
_RECORD_KEY, _RECORD_VALUE, _RECORD_TIME = tag(1, BYTES), tag(2, BYTES), tag(5, BYTES)
_TYPES = tuple(KadType)
_TYPE_FIELDS = tuple(varint_field(1, kind) if kind else b"" for kind in _TYPES)
# Tag and length of a key by its length, as far as one byte tells it: no key that is served is longer. No key has no field.
_KEY_HEADS = (b"", *(bytes((_KEY, length)) for length in range(1, 0x80)))


K = TypeVar("K")
V = TypeVar("V")


class _Memo(dict[K, V]):
    """What `make` gives for each key that was asked for. Forgets all at `ENTRIES_MAX`, or when `size` of its items fills `BYTES_MAX`."""

    # As many peers as `quiver.dht` remembers: with fewer, a world of 100,000 nodes forgets all it knows again and again.
    ENTRIES_MAX = 1 << 17
    BYTES_MAX = 16 * 1024 * 1024

    def __init__(self, make: Callable[[K], V], size: Callable[[K, V], int]) -> None:
        self._make, self._size = make, size
        self.held_bytes = 0

    def __missing__(self, key: K) -> V:
        value = self._make(key)
        size = self._size(key, value)
        if len(self) >= self.ENTRIES_MAX or self.held_bytes + size > self.BYTES_MAX:
            self.clear()
            self.held_bytes = 0
        if size <= self.BYTES_MAX:
            self[key] = value
            self.held_bytes += size
        return value


def _encode_peer(info: PeerInfo) -> bytes:
    """`length | Peer`."""
    body = bytes_field(1, info.peer_id) + b"".join([bytes_field(2, address) for address in info.addresses])
    return encode_varint(len(body)) + body


def _decode_peer(data: bytes) -> PeerInfo:
    peer_id, addresses = b"", []
    for head, _, body in fields(data):
        if head == _PEER_ID:
            peer_id = body
        elif head == _PEER_ADDRESS:
            addresses.append(body)
    if len(addresses) > ADDRESSES_MAX:
        raise MalformedMessage(f"a peer with {len(addresses)} addresses; at most {ADDRESSES_MAX} are read")
    return PeerInfo(peer_id=PeerId(peer_id), addresses=tuple(addresses))


_encoded = _Memo(_encode_peer, lambda _, encoded: len(encoded))
_decoded = _Memo(_decode_peer, lambda data, _: len(data))


class KadCodec:
    """Codec of one DHT protocol id. `frame_bytes_max` is the largest message that is read or sent."""

    fixed_bytes = 0

    def __init__(self, protocol_id: str, *, frame_bytes_max: int = FRAME_BYTES_MAX) -> None:
        self.id = protocol_id
        self.frame_bytes_max = frame_bytes_max

    def encode(self, message: KadMessage) -> bytes:
        """Fields in order, absent where they say nothing: PUT_VALUE has no type. `MalformedMessage` if it is too large to send."""
        key = message.key
        if len(key) < len(_KEY_HEADS):
            parts = [_TYPE_FIELDS[message.type], _KEY_HEADS[len(key)], key]
        else:
            parts = [_TYPE_FIELDS[message.type], bytes_field(2, key)]
        if message.record is not None:
            parts.append(bytes_field(3, _encode_record(message.record)))
        if message.closer:
            parts.append(_CLOSER_TAG)  # two parts of one join, so that the peers are copied once less
            parts.append(_CLOSER_TAG.join(map(_encoded.__getitem__, message.closer)))
        if message.providers:
            parts.append(_PROVIDERS_TAG + _PROVIDERS_TAG.join(map(_encoded.__getitem__, message.providers)))
        data = b"".join(parts)
        if len(data) > self.frame_bytes_max:
            raise MalformedMessage(
                f"{self.id}: a message of {len(data)} bytes; at most {self.frame_bytes_max} may be sent"
            )
        return data

    def decode(self, data: bytes) -> KadMessage:
        """The message, or `MalformedMessage`. Of a field that is there twice the last counts, as in every protobuf."""
        if len(data) > self.frame_bytes_max:
            raise MalformedMessage(
                f"{self.id}: a message of {len(data)} bytes; at most {self.frame_bytes_max} are read"
            )
        try:
            return _decode(data)
        except MalformedMessage as error:
            raise MalformedMessage(f"{self.id}: {error}") from error

    def size(self, message: KadMessage) -> int:
        """len(encode(message)), for transports that do not need the bytes."""
        size = len(_TYPE_FIELDS[message.type])
        if message.key:
            size += _field_size(len(message.key))
        if message.record is not None:
            size += _field_size(len(_encode_record(message.record)))
        size += len(message.closer) + sum(map(len, map(_encoded.__getitem__, message.closer)))
        return size + len(message.providers) + sum(map(len, map(_encoded.__getitem__, message.providers)))


def _decode(data: bytes) -> KadMessage:
    kind, key, record = 0, b"", None
    closer: list[PeerInfo] = []
    providers: list[PeerInfo] = []
    offset, end = 0, len(data)
    while offset < end:
        head = data[offset]
        if head == _CLOSER or head == _PROVIDERS:
            # The bulk of a message, past the generic reader.
            offset += 2
            length = data[offset - 1] if offset <= end else 0x80
            if length >= 0x80:
                length, offset = decode_varint(data, offset - 1)
            stop = offset + length
            if stop > end:
                raise MalformedMessage(f"a peer says {length} bytes, {end - offset} are left")
            (closer if head == _CLOSER else providers).append(_decoded[data[offset:stop]])
            offset = stop
            continue
        head, number, body, offset = read_field(data, offset)
        if head == _TYPE:
            kind = number
        elif head == _KEY:
            key = body
        elif head == _RECORD:
            record = _decode_record(body)
    if kind >= len(_TYPES):
        raise MalformedMessage(f"a message of type {kind}; 0 to {len(_TYPES) - 1} are known")
    if len(closer) > PEERS_MAX or len(providers) > PEERS_MAX:
        raise MalformedMessage(
            f"{len(closer)} closer peers and {len(providers)} providers; at most {PEERS_MAX} are read"
        )
    return KadMessage(type=_TYPES[kind], key=key, closer=tuple(closer), providers=tuple(providers), record=record)


def _field_size(length: int) -> int:
    """Bytes of a length-delimited field with a one-byte tag."""
    return 1 + len(encode_varint(length)) + length


def _encode_record(record: Record) -> bytes:
    parts = [bytes_field(1, record.key), bytes_field(2, record.value)]
    if record.time_received:
        parts.append(bytes_field(5, record.time_received.encode()))
    return b"".join(parts)


def _decode_record(data: bytes) -> Record:
    key = value = time = b""
    for head, _, body in fields(data):
        if head == _RECORD_KEY:
            key = body
        elif head == _RECORD_VALUE:
            value = body
        elif head == _RECORD_TIME:
            time = body
    return Record(key=key, value=value, time_received=decode_text(time))
