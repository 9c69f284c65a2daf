"""The DHT message: bytes by hand, what other implementations send, limits, and memos that stay bounded."""

from __future__ import annotations

import pytest

from quiver.dht.distance import KEYS_MAX
from quiver.errors import MalformedMessage
from quiver.identity.keys import KeyPair
from quiver.values.kad import KadMessage, KadType, Record
from quiver.values.peer import PeerInfo
from quiver.wire import kad, multiaddr
from quiver.wire.kad import ADDRESSES_MAX, FRAME_BYTES_MAX, KAD_IPFS, KAD_QUIVER, PEERS_MAX, KadCodec
from quiver.wire.protobuf import bytes_field, varint_field

CODEC = KadCodec(KAD_QUIVER)
PEER = PeerInfo(peer_id=KeyPair(b"\x01" * 32).peer_id, addresses=(multiaddr.quic_address("127.0.0.1", 4001),))
# Peer { id: 38 bytes, addrs: 11 bytes }
PEER_HEX = "0a26" + PEER.peer_id.hex() + "120b" + "047f00000191020fa1cd03"


@pytest.mark.parametrize(
    ("message", "data"),
    [
        (KadMessage(type=KadType.FIND_NODE, key=b"ab"), "0804" + "12026162"),
        (KadMessage(type=KadType.FIND_NODE, closer=(PEER,)), "0804" + "4235" + PEER_HEX),
        (
            KadMessage(type=KadType.GET_PROVIDERS, key=b"k", closer=(PEER, PEER), providers=(PEER,)),
            "0803" + "12016b" + ("4235" + PEER_HEX) * 2 + "4a35" + PEER_HEX,
        ),
        (KadMessage(type=KadType.PING), "0805"),
        (
            KadMessage(
                type=KadType.GET_VALUE, key=b"/a/b", record=Record(key=b"/a/b", value=b"v", time_received="now")
            ),
            "0801" + "12042f612f62" + "1a0e" + "0a042f612f62" + "120176" + "2a036e6f77",
        ),
        # proto3 leaves zero out, as js-libp2p does on the wire.
        (
            KadMessage(type=KadType.PUT_VALUE, key=b"/a/b", record=Record(key=b"/a/b", value=b"v")),
            "12042f612f62" + "1a09" + "0a042f612f62" + "120176",
        ),
    ],
)
def test_the_bytes_by_hand(message, data):
    assert CODEC.encode(message).hex() == data
    assert CODEC.decode(bytes.fromhex(data)) == message
    assert CODEC.size(message) == len(data) // 2


def test_an_empty_message_is_a_put_value_without_anything():
    assert CODEC.decode(b"") == KadMessage(type=KadType.PUT_VALUE)


def test_a_type_of_zero_may_be_sent_as_py_libp2p_does():
    assert CODEC.decode(bytes.fromhex("0800" + "12016b")) == KadMessage(type=KadType.PUT_VALUE, key=b"k")


def test_fields_in_any_order_and_fields_of_others_are_read():
    strange = (
        bytes_field(9, bytes.fromhex(PEER_HEX) + varint_field(3, 1) + bytes_field(4, b"signed record"))
        + varint_field(10, 7)  # clusterLevelRaw
        + bytes_field(11, b"py-libp2p's senderRecord")
        + bytes.fromhex("7d01020304")  # a fixed32
        + bytes_field(2, b"key")
        + varint_field(1, 3)
    )
    assert CODEC.decode(strange) == KadMessage(type=KadType.GET_PROVIDERS, key=b"key", providers=(PEER,))


def test_a_known_field_in_another_wire_type_is_an_unknown_field():
    data = varint_field(2, 5) + varint_field(8, 5) + bytes_field(1, b"x") + varint_field(1, 4)
    assert CODEC.decode(data) == KadMessage(type=KadType.FIND_NODE)


def test_of_a_field_that_is_there_twice_the_last_counts():
    assert CODEC.decode(bytes.fromhex("0801" + "0804" + "120161" + "120162")).key == b"b"


def test_a_peer_without_an_id_or_addresses_is_still_a_peer():
    assert CODEC.decode(bytes.fromhex("0804" + "4200")).closer == (PeerInfo(peer_id=b""),)


def test_peers_longer_than_127_bytes_are_read():
    peer = PeerInfo(peer_id=b"p" * 38, addresses=(b"a" * 300,) * 3)
    message = KadMessage(type=KadType.FIND_NODE, closer=(peer,) * 20)
    data = CODEC.encode(message)
    assert CODEC.decode(data) == message and CODEC.size(message) == len(data)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ("0806", "type 6; 0 to 5"),
        ("08" + "ff" * 9 + "01", "type 18446744073709551615"),  # -1
        ("42", "cut"),
        ("4205", "5 bytes, 0 are left"),
        ("428080", "cut"),
        ("4203" + "0a0561", "5 bytes, 1 are left"),
        ("1a03" + "0a0561", "5 bytes, 1 are left"),
        ("1a03" + "2a01ff", "UTF-8"),
        ("43", "wire type 3"),
    ],
)
def test_bytes_that_are_no_message_say_why(data, why):
    with pytest.raises(MalformedMessage, match=f"{KAD_QUIVER}: .*{why}"):
        CODEC.decode(bytes.fromhex(data))


def test_a_message_has_at_most_so_many_peers_and_a_peer_so_many_addresses():
    for field in (8, 9):
        CODEC.decode(bytes_field(field, b"") * PEERS_MAX)
        with pytest.raises(MalformedMessage, match="at most 1024"):
            CODEC.decode(bytes_field(field, b"") * (PEERS_MAX + 1))
    CODEC.decode(bytes_field(8, bytes_field(2, b"") * ADDRESSES_MAX))
    with pytest.raises(MalformedMessage, match="257 addresses; at most 256"):
        CODEC.decode(bytes_field(8, bytes_field(2, b"") * (ADDRESSES_MAX + 1)))


def test_an_oversized_message_is_neither_read_nor_sent():
    message = KadMessage(type=KadType.GET_VALUE, key=b"k" * FRAME_BYTES_MAX)
    with pytest.raises(MalformedMessage, match=r"65542 bytes; at most 65536 may be sent"):
        CODEC.encode(message)
    with pytest.raises(MalformedMessage, match=r"65537 bytes; at most 65536 are read"):
        CODEC.decode(bytes(FRAME_BYTES_MAX + 1))
    public = KadCodec(KAD_IPFS, frame_bytes_max=4 * 1024 * 1024)
    assert public.decode(public.encode(message)) == message


def test_one_peer_is_one_object():
    # A table of ten thousand nodes would otherwise hold each peer hundreds of times.
    data = CODEC.encode(KadMessage(type=KadType.FIND_NODE, closer=(PEER,)))
    assert CODEC.decode(data).closer[0] is CODEC.decode(data).closer[0]


def test_a_memo_forgets_at_its_bounds_and_answers_the_same():
    memo = kad._Memo(lambda key: key * 2, lambda key, value: len(value))
    memo.ENTRIES_MAX, memo.BYTES_MAX = 3, 100
    assert [memo[b"a"], memo[b"b"], memo[b"c"]] == [b"aa", b"bb", b"cc"]
    assert (len(memo), memo.held_bytes) == (3, 6)
    assert memo[b"d"] == b"dd" and (len(memo), memo.held_bytes) == (1, 2)
    assert memo[b"e" * 50] == b"e" * 100 and (len(memo), memo.held_bytes) == (1, 100)
    # Larger than everything it may hold: made, and not kept.
    assert memo[b"f" * 51] == b"f" * 102 and (len(memo), memo.held_bytes) == (0, 0)


def test_the_memos_hold_as_many_peers_as_the_dht_remembers():
    # With fewer, a world between the two bounds encodes each peer again and again.
    assert kad._Memo.ENTRIES_MAX >= KEYS_MAX
