"""What is smaller than a message: varints, frames, multiaddrs, peer ids, digests, signed bytes, Merkle proofs."""

from __future__ import annotations

import base64

import msgspec
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from quiver.errors import MalformedMessage, ReceiptMismatch
from quiver.identity.peer_id import compute_peer_id, parse_peer_id, peer_id_text, public_key_of
from quiver.identity.signing import RECEIPT_BYTES, offer_bytes, receipt_bytes
from quiver.ids import base58_decode, base58_encode, model_id_from_digest
from quiver.receipts.checks import check_acknowledgement_shape, check_head, check_shape
from quiver.settlement import merkle
from quiver.values.ledger import Commitment, Leaf, Proof
from quiver.values.offer import Offer
from quiver.values.receipt import Acknowledgement, ChannelHead, SignedReceipt
from quiver.wire import multiaddr
from quiver.wire.framing import FrameReader, decode_varint, encode_frame, encode_varint
from quiver.wire.multistream import Dialer, Listener, NegotiationFailed
from tests.examples import examples
from tests.property.messages import messages, mutations

LIMIT = 200
UNSIGNED = st.integers(0, (1 << 64) - 1)
LEAVES = st.builds(
    Leaf, epoch=UNSIGNED, channel=st.binary(min_size=32, max_size=32), cum=UNSIGNED, seq=UNSIGNED,
    head=st.binary(min_size=32, max_size=32),
)  # fmt: skip


# ---- varints and frames


@given(st.integers(0, (1 << 63) - 1), st.binary(max_size=4))
def test_a_varint_comes_back_and_ends_where_it_ends(value, rest):
    encoded = encode_varint(value)
    assert decode_varint(encoded + rest) == (value, len(encoded))
    assert decode_varint(encoded[:-1]) is None


@given(st.binary(max_size=12))
def test_any_bytes_are_the_one_shortest_varint_or_malformed_or_unfinished(data):
    try:
        found = decode_varint(data)
    except MalformedMessage:
        return
    if found is None:
        assert len(data) < 9 and all(byte & 0x80 for byte in data)
    else:
        assert encode_varint(found[0]) == data[: found[1]]


@given(st.lists(st.binary(max_size=LIMIT), max_size=8), st.lists(st.integers(1, 50), max_size=20))
def test_frames_come_out_whole_however_the_bytes_were_cut(payloads, cuts):
    stream, reader, found = b"".join(map(encode_frame, payloads)), FrameReader(LIMIT), []
    for size in [*cuts, len(stream)]:
        found += reader.feed(stream[:size])
        stream = stream[size:]
    assert found == payloads and reader.pending_bytes == 0


@given(st.lists(st.binary(max_size=LIMIT), max_size=8))
def test_any_bytes_are_frames_or_malformed_and_an_unfinished_frame_is_bounded(pieces):
    reader, found = FrameReader(LIMIT), []
    try:
        for piece in pieces:
            found += reader.feed(piece)
            assert reader.pending_bytes < LIMIT + 2
    except MalformedMessage:
        return
    encoded = b"".join(map(encode_frame, found))
    assert b"".join(pieces)[: len(encoded)] == encoded


@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_are_a_negotiation_or_refused(data, named):
    data = (b"\x13/multistream/1.0.0\n" if named else b"") + data
    for feed in (Dialer("/a/1").feed, Listener(lambda protocol: protocol == "/a/1").feed):
        try:
            feed(data)
        except NegotiationFailed:
            continue


# ---- addresses and ids


NAMES = st.text(st.characters(categories=["Ll", "Nd"]), min_size=1, max_size=10).map(str.encode)
COMPONENTS = st.lists(
    st.one_of(
        st.tuples(st.just(multiaddr.IP4), st.binary(min_size=4, max_size=4)),
        st.tuples(st.just(multiaddr.IP6), st.binary(min_size=16, max_size=16)),
        st.tuples(st.sampled_from([multiaddr.UDP, multiaddr.TCP]), st.binary(min_size=2, max_size=2)),
        st.tuples(st.just(multiaddr.QUIC_V1), st.just(b"")),
        st.tuples(st.just(multiaddr.P2P), st.binary(min_size=32, max_size=32).map(compute_peer_id)),
        st.tuples(st.sampled_from([multiaddr.DNS, multiaddr.DNS4, multiaddr.DNS6, multiaddr.DNSADDR]), NAMES),
    ),
    min_size=1,
    max_size=6,
)


@given(COMPONENTS)
def test_an_address_comes_back_from_its_bytes_and_from_its_text(components):
    data = multiaddr.encode(components)
    assert multiaddr.decode(data) == components
    assert multiaddr.from_text(multiaddr.to_text(data)) == data


@given(st.data())
def test_a_changed_address_is_refused_or_another_address(data):
    changed = data.draw(mutations(multiaddr.encode(data.draw(COMPONENTS))))
    try:
        components = multiaddr.decode(changed)
    except MalformedMessage:
        assert multiaddr.quic_endpoint(changed) is None
        return
    assert multiaddr.encode(components) == changed or len(multiaddr.encode(components)) < len(changed)


@given(st.text(max_size=60), st.booleans())
def test_any_text_is_an_address_or_malformed(text, slash):
    try:
        data = multiaddr.from_text("/" + text if slash else text)
    except MalformedMessage as error:
        assert "is not a multiaddr" in str(error) or "no multiaddr component" in str(error)
        return
    multiaddr.decode(data)


@given(st.binary(max_size=60))
def test_base58_comes_back(data):
    assert base58_decode(base58_encode(data)) == data


@given(st.text(max_size=60))
def test_any_text_is_base58_or_a_value_error(text):
    try:
        data = base58_decode(text)
    except ValueError:
        return
    assert base58_encode(data) == text


@given(st.binary(min_size=32, max_size=32))
def test_a_peer_id_comes_back_from_each_of_its_forms(public_key):
    peer = compute_peer_id(public_key)
    assert public_key_of(peer) == public_key
    assert parse_peer_id(peer_id_text(peer)) == peer == parse_peer_id(cid(peer))


def cid(peer):
    """CIDv1, codec libp2p-key, base32 without padding (libp2p specs, peer-ids)."""
    return "b" + base64.b32encode(b"\x01\x72" + peer).decode().lower().rstrip("=")


@given(st.one_of(st.text(max_size=60), st.binary(max_size=40).map(cid), st.binary(max_size=40).map(base58_encode)))
def test_any_text_is_a_peer_id_or_malformed(text):
    try:
        peer = parse_peer_id(text)
    except MalformedMessage as error:
        assert "is not a peer id" in str(error)
        return
    # A multihash: code, length, digest.
    assert peer[1] == len(peer) - 2
    assert base58_decode(peer_id_text(peer)) == peer


@given(st.binary(max_size=50))
def test_any_bytes_are_an_ed25519_peer_id_or_malformed(data):
    try:
        public_key = public_key_of(data)
    except MalformedMessage:
        return
    assert compute_peer_id(public_key) == data


@given(st.one_of(st.text(max_size=70), st.binary(max_size=40).map(bytes.hex)), st.booleans())
def test_any_text_is_a_model_digest_or_a_value_error(text, prefixed):
    try:
        model = model_id_from_digest("sha256:" + text if prefixed else text)
    except ValueError:
        return
    assert len(model) == 32 and model.hex() == text.removeprefix("sha256:").lower()


# ---- signed bytes


@settings(max_examples=examples(300))
@given(messages(SignedReceipt))
def test_any_receipt_has_its_265_bytes_or_is_refused_by_name(receipt):
    try:
        check_shape(receipt)
    except ReceiptMismatch as error:
        assert str(error).startswith("shape: ")
        return
    assert len(receipt_bytes(receipt.body)) == RECEIPT_BYTES == 265


def offers():
    """Offers that have signed bytes."""
    digest, account = st.binary(min_size=32, max_size=32), st.binary(min_size=20, max_size=20)
    speed = st.floats(0, 1e12)
    return st.builds(
        Offer, provider=digest.map(compute_peer_id), public_key=digest, model=digest, name=st.text(max_size=5),
        prompt_price=UNSIGNED, completion_price=UNSIGNED, minimum_credits=UNSIGNED, hardware=st.text(max_size=5),
        slots=st.integers(0, (1 << 32) - 1), prefill_tps=speed, decode_tps=speed, payout=account, chain_id=UNSIGNED,
        contract=account, generation=UNSIGNED, expires_ms=UNSIGNED,
    )  # fmt: skip


@settings(max_examples=examples(200))
@given(offers(), st.data())
def test_no_two_offers_share_their_signed_bytes(offer, data):
    field = data.draw(st.sampled_from(offer.__struct_fields__))
    other = msgspec.structs.replace(offer, **{field: getattr(data.draw(offers()), field)})
    # Speeds are signed in thousandths of a token per second.
    assume(all(abs(getattr(other, f) - getattr(offer, f)) > 0.001 for f in (field,) if f.endswith("_tps")))
    assert (offer_bytes(other) == offer_bytes(offer)) == (other == offer)


@settings(max_examples=examples(300))
@given(messages(Offer), offers(), st.data())
def test_any_offer_has_its_signed_bytes_or_is_malformed(strange, offer, data):
    field = data.draw(st.sampled_from(offer.__struct_fields__))
    changed = msgspec.structs.replace(offer, **{field: getattr(strange, field)})
    for candidate in (strange, changed):
        try:
            signed = offer_bytes(candidate)
        except MalformedMessage as error:
            assert str(error).startswith("an offer ")
            continue
        assert len(signed) == len(offer_bytes(offer))


@given(messages(ChannelHead), messages(Acknowledgement))
def test_any_head_and_any_acknowledgement_fit_their_signed_bytes_or_are_refused(head, acknowledgement):
    for check, value, name in (
        (check_head, head, "shape: "),
        (check_acknowledgement_shape, acknowledgement, "ack_shape: "),
    ):
        with pytest.raises(ReceiptMismatch, match=f"^{name}"):
            check(value)


# ---- Merkle proofs


def committed(leaves, index):
    tree = merkle.MerkleTree([merkle.hash_leaf(leaf) for leaf in leaves])
    return tree.proof(index), Commitment(epoch=leaves[index].epoch, root=tree.root, count=len(leaves))


@settings(max_examples=examples(100), deadline=None)
@given(st.lists(LEAVES, min_size=1, max_size=40), st.data())
def test_every_leaf_is_proved_and_no_other_leaf_by_its_proof(leaves, data):
    index = data.draw(st.integers(0, len(leaves) - 1))
    proof, commitment = committed(leaves, index)
    merkle.verify(leaves[index], proof, commitment)
    other = data.draw(LEAVES)
    assume(other != leaves[index])
    with pytest.raises(ReceiptMismatch, match=r"^proof_"):
        merkle.verify(other, proof, commitment)


@settings(max_examples=examples(200), deadline=None)
# An epoch has one leaf a channel: of two equal ones either place would be right.
@given(st.lists(LEAVES, min_size=1, max_size=9, unique_by=lambda leaf: leaf.channel), st.data())
def test_a_proof_with_anything_changed_is_refused_by_name(leaves, data):
    index = data.draw(st.integers(0, len(leaves) - 1))
    proof, commitment = committed(leaves, index)
    digests = st.one_of(st.binary(min_size=32, max_size=32), st.binary(max_size=40))
    siblings = st.lists(digests, max_size=6) | st.integers(60, 70).map(lambda count: [bytes(32)] * count)
    changed = Proof(
        index=data.draw(st.one_of(st.just(proof.index), st.integers(-(1 << 63), (1 << 64) - 1))),
        count=data.draw(st.one_of(st.just(proof.count), st.integers(-(1 << 63), (1 << 64) - 1))),
        siblings=data.draw(st.one_of(st.just(proof.siblings), siblings.map(tuple))),
    )
    assume(changed != proof)
    with pytest.raises(ReceiptMismatch, match=r"^proof_"):
        merkle.verify(leaves[index], changed, commitment)


@settings(max_examples=examples(200), deadline=None)
@given(messages(Leaf), messages(Proof), messages(Commitment))
def test_any_leaf_proof_and_commitment_are_refused_by_name(leaf, proof, commitment):
    with pytest.raises(ReceiptMismatch, match=r"^(leaf|proof)_"):
        merkle.verify(leaf, proof, commitment)
