"""Host keys of all four types: the specification's vectors, signatures, and keys that are none."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from quiver.errors import MalformedMessage
from quiver.identity.host_key import (
    KEY_BYTES_MAX,
    HostKeyType,
    encode_host_key,
    parse_host_key,
    verify_host_signature,
)
from quiver.identity.keys import KeyPair
from quiver.identity.peer_id import encode_public_key
from tests.unit.identity.vectors import KINDS, host_key, load_private, sign

MESSAGE = b"libp2p-peer-record and so on"
DER = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
each_kind = pytest.mark.parametrize("kind", KINDS)


@each_kind
def test_the_vectors_of_the_specification_come_back(kind):
    parsed, data = parse_host_key(host_key(kind))
    assert parsed.name == kind.upper()
    assert encode_host_key(parsed, data) == host_key(kind)


@each_kind
def test_the_public_key_of_each_vector_belongs_to_its_private_key(kind):
    public = load_private(kind).public_key()
    if kind == "ed25519":
        data = public.public_bytes_raw()
    elif kind == "secp256k1":
        data = public.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.CompressedPoint)
    else:
        data = public.public_bytes(*DER)
    assert encode_host_key(HostKeyType[kind.upper()], data) == host_key(kind)


@each_kind
def test_a_signature_holds_for_its_key_and_message_only(kind):
    signature = sign(kind, MESSAGE)
    assert verify_host_signature(host_key(kind), MESSAGE, signature)
    assert not verify_host_signature(host_key(kind), MESSAGE + b"!", signature)
    assert not verify_host_signature(host_key(kind), MESSAGE, signature[:-1])
    assert not verify_host_signature(host_key(kind), MESSAGE, bytes((signature[0] ^ 1,)) + signature[1:])
    assert not verify_host_signature(host_key(kind), MESSAGE, b"")
    for other in KINDS:
        if other != kind:
            assert not verify_host_signature(host_key(other), MESSAGE, signature)


def test_our_own_keys_are_ed25519_host_keys():
    keys = KeyPair(b"\x01" * 32)
    assert parse_host_key(encode_public_key(keys.public_key)) == (HostKeyType.ED25519, keys.public_key)
    assert verify_host_signature(encode_public_key(keys.public_key), MESSAGE, keys.sign(MESSAGE))


@pytest.mark.parametrize(
    "data",
    [
        "",
        "080112",  # no length
        "08011220" + "00" * 31,  # cut
        "08011220" + "00" * 33,  # bytes after it
        "0801121f" + "00" * 31,  # a shorter Ed25519 key
        "080412" + "20" + "00" * 32,  # a fifth type
        "12200000",  # fields in another order
        "08811200",  # the type as a longer varint
        "080112a000" + "00" * 32,  # the length as a longer varint
        "08011280",  # cut inside the length
    ],
)
def test_another_form_of_the_protobuf_is_malformed(data):
    with pytest.raises(MalformedMessage):
        parse_host_key(bytes.fromhex(data))


def test_a_key_beyond_the_limit_is_neither_read_nor_written():
    with pytest.raises(MalformedMessage, match="2049 bytes; at most 2048"):
        encode_host_key(HostKeyType.RSA, bytes(KEY_BYTES_MAX + 1))
    with pytest.raises(MalformedMessage):
        parse_host_key(bytes.fromhex("0800128110") + bytes(KEY_BYTES_MAX + 1))


def test_a_key_of_another_type_than_it_says_is_malformed():
    _, rsa_data = parse_host_key(host_key("rsa"))
    _, ecdsa_data = parse_host_key(host_key("ecdsa"))
    for kind, data in (
        (HostKeyType.ECDSA, rsa_data),
        (HostKeyType.RSA, ecdsa_data),
        (HostKeyType.RSA, b"no DER"),
        (HostKeyType.SECP256K1, bytes(33)),
        (HostKeyType.SECP256K1, ecdsa_data),
    ):
        with pytest.raises(MalformedMessage, match=kind.name):
            verify_host_signature(encode_host_key(kind, data), MESSAGE, b"signature")


def test_an_uncompressed_secp256k1_point_is_malformed():
    point = load_private("secp256k1").public_key()
    data = point.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
    with pytest.raises(MalformedMessage, match="33 bytes, not 65"):
        verify_host_signature(encode_host_key(HostKeyType.SECP256K1, data), MESSAGE, b"")


def test_an_rsa_key_that_is_too_small_is_refused():
    key = rsa.generate_private_key(public_exponent=65537, key_size=1024).public_key()
    with pytest.raises(MalformedMessage, match="1024 bits; 2048 to 8192"):
        verify_host_signature(encode_host_key(HostKeyType.RSA, key.public_bytes(*DER)), MESSAGE, b"")


def test_an_ecdsa_key_may_be_on_any_nist_curve():
    private = ec.derive_private_key(7, ec.SECP384R1())
    protobuf = encode_host_key(HostKeyType.ECDSA, private.public_key().public_bytes(*DER))
    assert verify_host_signature(protobuf, MESSAGE, private.sign(MESSAGE, ec.ECDSA(hashes.SHA256())))
