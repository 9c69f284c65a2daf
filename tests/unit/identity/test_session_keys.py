"""Session keys of a seed: the first is what it always was, the others are found again by their address alone."""

from __future__ import annotations

import pytest

from quiver.identity.keys import SESSIONS_MAX, KeyPair, verify_session

DIGEST = bytes(range(32))


def test_each_key_signs_for_its_own_address_and_a_fresh_object_finds_it():
    pair = KeyPair(bytes(range(32)))
    # Written down once: a seed's first session key must never change.
    assert pair.session_address.hex() == "7828e1f81301aa6a8eee9ead005bc2c3eafc61d3"
    first, second = pair.session_address, pair.next_session(pair.session_address)
    third = pair.next_session(second)
    assert len({first, second, third}) == 3
    for session in (first, second, third):
        signature = KeyPair(bytes(range(32))).sign_session(DIGEST, session)
        assert verify_session(session, DIGEST, signature)
    assert pair.sign_session(DIGEST) == pair.sign_session(DIGEST, first)


def test_a_foreign_key_and_what_comes_after_the_last_are_refused():
    pair = KeyPair(bytes(32))
    with pytest.raises(ValueError, match="none of this node's"):
        pair.sign_session(DIGEST, KeyPair(bytes(31) + b"x").session_address)
    with pytest.raises(ValueError, match="no session key"):
        pair.next_session(KeyPair(bytes(31) + b"x").session_address)
    session = pair.session_address
    for _ in range(SESSIONS_MAX - 1):
        session = pair.next_session(session)
    with pytest.raises(ValueError, match="no session key"):
        pair.next_session(session)
