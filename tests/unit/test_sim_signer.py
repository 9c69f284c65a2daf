"""Real and modelled keys behave alike towards the protocol."""

from __future__ import annotations

import pytest

from quiver.identity.peer_id import parse_peer_id, peer_id_text, public_key_of
from sim.signer import SimSigner, SimVerifier
from tests.unit.receipts.histories import drive


@pytest.mark.parametrize("mode", ["real", "modelled"])
def test_keys_belong_to_seed_and_name_and_have_their_shapes(mode):
    signer = SimSigner(1, "a", mode=mode)
    again, other_name, other_seed = (
        SimSigner(1, "a", mode=mode),
        SimSigner(1, "b", mode=mode),
        SimSigner(2, "a", mode=mode),
    )
    assert signer.peer_id == again.peer_id and signer.account == again.account
    assert len({s.peer_id for s in (signer, other_name, other_seed)}) == 3
    assert len(signer.peer_id) == 38 and public_key_of(signer.peer_id) == signer.public_key
    assert parse_peer_id(peer_id_text(signer.peer_id)) == signer.peer_id
    assert (len(signer.session_public_key), len(signer.session_address), len(signer.account)) == (33, 20, 20)


@pytest.mark.parametrize("mode", ["real", "modelled"])
def test_a_signature_holds_for_its_key_and_message_only(mode):
    signer, other, verifier = SimSigner(1, "a", mode=mode), SimSigner(1, "b", mode=mode), SimVerifier(mode=mode)
    signature, session = drive(signer.sign(b"message")), drive(signer.sign_session(bytes(32)))
    assert (len(signature), len(session)) == (64, 65)
    assert drive(verifier.verify(signer.public_key, b"message", signature))
    assert drive(verifier.verify_session(signer.session_address, bytes(32), session))
    assert not drive(verifier.verify(signer.public_key, b"massage", signature))
    assert not drive(verifier.verify(other.public_key, b"message", signature))
    assert not drive(verifier.verify_session(other.session_address, bytes(32), session))
    assert not drive(verifier.verify_session(signer.session_address, b"\1" * 32, session))
    for junk in (b"", signature[:-1], bytes(64), bytes(65)):
        assert not drive(verifier.verify(signer.public_key, b"message", junk))
        assert not drive(verifier.verify_session(signer.session_address, bytes(32), junk))
    assert not drive(verifier.verify(b"", b"message", signature))
    assert not drive(verifier.verify_session(b"", bytes(32), session))
