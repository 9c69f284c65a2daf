"""What a DHT node answers to questions of strangers: each input is length-prefixed messages of a few peers, to one node.

Any message is refused by name or answered by one that fits its protocol; tables and stores stay within their bounds.
"""

import random
from types import SimpleNamespace

from quiver.dht.answers import Answers
from quiver.dht.public_key import PUBLIC_KEY_NAMESPACE, PublicKeyValidator, public_key_record_key
from quiver.errors import MalformedMessage, PeerError
from quiver.identity.keys import KeyPair
from quiver.identity.peer_id import encode_public_key
from quiver.params import Params
from quiver.values.kad import KadMessage, KadType, Record
from quiver.values.peer import PeerInfo
from quiver.wire.kad import KAD_QUIVER, KadCodec
from quiver.wire.multiaddr import quic_address

CODEC = KadCodec(KAD_QUIVER)
KEYS = [KeyPair(bytes([number]) * 32) for number in range(1, 6)]
PEERS = [PeerInfo(peer_id=one.peer_id, addresses=(quic_address(f"203.0.{n}.1", 4001),)) for n, one in enumerate(KEYS)]
_PK = encode_public_key(KEYS[1].public_key)
_PK_KEY = public_key_record_key(KEYS[1].peer_id)
QUESTIONS = [
    KadMessage(type=KadType.FIND_NODE, key=PEERS[2].peer_id, providers=(PEERS[1],)),
    KadMessage(type=KadType.ADD_PROVIDER, key=b"\x12\x20" + bytes(32), providers=(PEERS[1], PEERS[2])),
    KadMessage(type=KadType.GET_PROVIDERS, key=b"\x12\x20" + bytes(32)),
    KadMessage(type=KadType.PUT_VALUE, key=_PK_KEY, record=Record(key=_PK_KEY, value=_PK)),
    KadMessage(type=KadType.GET_VALUE, key=_PK_KEY),
    KadMessage(type=KadType.PING, key=b""),
]


def _asked(*questions: tuple[int, KadMessage]) -> bytes:
    encoded = [(peer, CODEC.encode(question)) for peer, question in questions]
    return b"".join(bytes((peer,)) + len(data).to_bytes(2) + data for peer, data in encoded)


SEEDS = [
    *(_asked((1, question)) for question in QUESTIONS),
    _asked(*((number % 5, question) for number, question in enumerate(QUESTIONS * 2))),
]


class Transport:
    """Who we are; what is learned of others is kept by nobody."""

    def local_info(self) -> PeerInfo:
        return PEERS[0]

    def learn(self, info: PeerInfo) -> None:
        assert info.addresses

    def place_of(self, peer: bytes) -> str | None:
        return "192.0.2.1" if peer[-1] % 2 else None


def make() -> Answers:
    now = iter(range(1 << 30))
    clock = SimpleNamespace(now=lambda: next(now) / 10, utc_ms=lambda: 1_700_000_000_000)
    runtime = SimpleNamespace(transport=Transport(), clock=clock, rng=random.Random(1), params=Params.minimal())
    return Answers(runtime, {PUBLIC_KEY_NAMESPACE: PublicKeyValidator()}, lambda info: None)  # type: ignore[arg-type]


def one_input(data: bytes) -> None:
    answers = make()
    at = 0
    while at + 3 <= len(data):
        peer, size = PEERS[data[at] % len(PEERS)].peer_id, int.from_bytes(data[at + 1 : at + 3])
        message = data[at + 3 : at + 3 + size]
        at += 3 + len(message)
        try:
            question = CODEC.decode(message)
            answer = answers.on_question(peer, question)
        except MalformedMessage:
            continue
        except PeerError as error:
            assert str(error)
            continue
        encoded = CODEC.encode(answer)
        assert len(encoded) <= CODEC.frame_bytes_max and CODEC.decode(encoded) == answer
        answers.records.validate()
        answers.values.validate()
        for info in answer.closer:
            assert info.peer_id != peer or question.key == peer
