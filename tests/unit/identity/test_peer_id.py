"""Peer ids: the examples of the specification in every text form, and texts that are none."""

from __future__ import annotations

import pytest

from quiver.errors import MalformedMessage
from quiver.identity.keys import KeyPair
from quiver.identity.peer_id import (
    check_peer_id,
    compute_host_peer_id,
    host_key_of,
    parse_peer_id,
    peer_id_cid,
    peer_id_cid36,
    peer_id_text,
)
from quiver.ids import base58_encode
from tests.unit.identity.vectors import host_key

# libp2p specs, peer-ids, examples: one id in both forms.
HASHED = "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N"
HASHED_CID = "bafzbeie5745rpv2m6tjyuugywy4d5ewrqgqqhfnf445he3omzpjbx5xqxe"
# Seed 01 x 32, as js-libp2p shows it.
OURS = "12D3KooWK99VoVxNE7XzyBwXEzW7xhK7Gpv85r9F3V3fyKSUKPH5"
OURS_CID = "bafzaajaiaejcbcui4poxicprsx6vfwznhs5f24wkm4e36hmucin7g5eiag2a6324"


@pytest.mark.parametrize(("text", "cid"), [(HASHED, HASHED_CID), (OURS, OURS_CID)])
def test_both_forms_of_the_specification_are_one_peer(text, cid):
    peer = parse_peer_id(text)
    assert parse_peer_id(cid) == peer
    assert peer_id_text(peer) == text
    assert peer_id_cid(peer) == cid
    assert peer_id_cid36(peer).startswith("k")
    assert parse_peer_id(peer_id_cid36(peer)) == peer


def test_the_seed_of_the_vector_is_that_peer():
    assert peer_id_text(KeyPair(b"\x01" * 32).peer_id) == OURS


def test_a_cid_may_be_in_base58_too():
    peer = parse_peer_id(HASHED)
    assert parse_peer_id("z" + base58_encode(bytes.fromhex("0172") + peer)) == peer


@pytest.mark.parametrize(
    ("kind", "prefix", "size"),
    [("ed25519", "12D3KooW", 38), ("secp256k1", "16Uiu2HA", 39), ("ecdsa", "Qm", 34), ("rsa", "Qm", 34)],
)
def test_the_id_of_each_key_type(kind, prefix, size):
    peer = compute_host_peer_id(host_key(kind))
    assert len(peer) == size and peer_id_text(peer).startswith(prefix)
    assert host_key_of(peer) == (host_key(kind) if size != 34 else None)
    assert parse_peer_id(peer_id_text(peer)) == parse_peer_id(peer_id_cid(peer)) == peer == check_peer_id(peer)


def test_the_ed25519_vector_has_the_id_other_implementations_give_it():
    # go-libp2p's and rust-libp2p's tests name this id for the key of the specification.
    assert (
        peer_id_text(compute_host_peer_id(host_key("ed25519")))
        == "12D3KooWBtg3aaRMjxwedh83aGiUkwSxDwUZkzuJcfaqUmo7R3pq"
    )


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "starts with"),
        ("hello", "starts with"),
        (OURS[:-1], "multihash"),
        (OURS + "1", "multihash"),
        (OURS[:-1] + "0", "base58"),  # 0 is not a letter of base58
        (HASHED_CID.upper(), "starts with"),
        ("b" + OURS_CID[1:].upper(), "one form"),
        (OURS_CID[:-1], "base32"),
        (OURS_CID + "=", "base32"),
        ("bafybeie5745rpv2m6tjyuugywy4d5ewrqgqqhfnf445he3omzpjbx5xqxe", "libp2p key"),  # dag-pb
        ("k!", "base36"),
        ("b", "libp2p key"),
        ("k", "libp2p key"),
        ("z", "libp2p key"),
        ("1" * 129, "at most 128"),
    ],
)
def test_texts_that_are_no_peer_id_say_why(text, why):
    with pytest.raises(MalformedMessage, match="is not a peer id: .*" + why):
        parse_peer_id(text)


@pytest.mark.parametrize(
    "raw", ["", "00", "0000", "002b" + "00" * 43, "1220" + "00" * 31, "1320" + "00" * 32, "0002ff"]
)
def test_bytes_that_are_no_peer_id(raw):
    with pytest.raises(MalformedMessage):
        check_peer_id(bytes.fromhex(raw))
