"""What every `Signer` and its `Verifier` must do: live keys, simulated real ones, modelled ones."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest

from quiver.identity.keys import KeyPair
from quiver.identity.peer_id import compute_peer_id
from quiver.live.signer import CHECKS_PER_JOB, LiveSigner, LiveVerifier, SignaturePool
from quiver.ports import SignatureCheck
from sim.loop import Environment
from sim.signer import SimSigner, SimVerifier

DIGEST = bytes(range(32))


@asynccontextmanager
async def live():
    pool = SignaturePool()
    try:
        yield LiveSigner(KeyPair(b"\1" * 32), pool), LiveSigner(KeyPair(b"\2" * 32), pool), LiveVerifier(pool)
    finally:
        pool.close()


def simulated(mode):
    @asynccontextmanager
    async def make():
        yield SimSigner(1, "a", mode=mode), SimSigner(1, "b", mode=mode), SimVerifier(mode=mode)

    return make


KINDS = {
    "live": (asyncio.run, live),
    "simulated-real": (lambda main: Environment().run_coroutine(main), simulated("real")),
    "modelled": (lambda main: Environment().run_coroutine(main), simulated("modelled")),
}


@pytest.fixture(params=sorted(KINDS))
def check(request):
    run, make = KINDS[request.param]

    def check(story):
        async def main():
            async with make() as (signer, other, verifier):
                await story(signer, other, verifier)

        run(main())

    return check


def test_names_have_the_shape_of_the_wire_and_differ_between_nodes(check):
    async def story(signer, other, verifier):
        assert (len(signer.public_key), len(signer.session_public_key)) == (32, 33)
        assert (len(signer.session_address), len(signer.account)) == (20, 20)
        assert signer.peer_id == compute_peer_id(signer.public_key)
        names = [signer.session_address, signer.account, other.session_address, other.account]
        assert len(set(names)) == 4

    check(story)


def test_a_signature_verifies_for_its_signer_and_message_only(check):
    async def story(signer, other, verifier):
        signature = await signer.sign(b"message")
        assert len(signature) == 64
        assert await verifier.verify(signer.public_key, b"message", signature)
        assert not await verifier.verify(other.public_key, b"message", signature)
        assert not await verifier.verify(signer.public_key, b"messagf", signature)

    check(story)


def test_a_session_signature_verifies_for_its_session_and_digest_only(check):
    async def story(signer, other, verifier):
        signature = await signer.sign_session(DIGEST)
        assert len(signature) == 65
        assert await verifier.verify_session(signer.session_address, DIGEST, signature)
        assert not await verifier.verify_session(other.session_address, DIGEST, signature)
        assert not await verifier.verify_session(signer.session_address, DIGEST[::-1], signature)

    check(story)


@pytest.mark.parametrize("position", [0, 31, 32, 63])
def test_a_changed_bit_is_noticed(check, position):
    async def story(signer, other, verifier):
        for sign, verify, key in (
            (signer.sign, verifier.verify, signer.public_key),
            (signer.sign_session, verifier.verify_session, signer.session_address),
        ):
            signature = bytearray(await sign(DIGEST))
            signature[position] ^= 1
            assert not await verify(key, DIGEST, bytes(signature))

    check(story)


@pytest.mark.parametrize("signature", [b"", b"\0" * 64, b"\xff" * 65, b"x" * 1000])
def test_rubbish_is_refused_without_an_exception(check, signature):
    async def story(signer, other, verifier):
        assert not await verifier.verify(signer.public_key, DIGEST, signature)
        assert not await verifier.verify(b"short", DIGEST, signature)
        assert not await verifier.verify_session(signer.session_address, DIGEST, signature)

    check(story)


async def checks_of(signer, other, count):
    """Signatures of two nodes by both kinds of keys, in turn: all valid."""
    checks = []
    for number in range(count):
        one = (signer, other)[number // 2 % 2]
        digest = number.to_bytes(32, "big")
        if number % 2:
            checks.append(SignatureCheck(one.session_address, digest, await one.sign_session(digest), True))
        else:
            checks.append(SignatureCheck(one.public_key, digest, await one.sign(digest)))
    return checks


@pytest.mark.parametrize("count", [0, 1, 8, 2 * CHECKS_PER_JOB + 3])
def test_many_at_once_are_valid_when_each_is(check, count):
    async def story(signer, other, verifier):
        assert await verifier.find_invalid(await checks_of(signer, other, count)) is None

    check(story)


@pytest.mark.parametrize("position", [0, 3, CHECKS_PER_JOB - 1, CHECKS_PER_JOB, 2 * CHECKS_PER_JOB + 2])
def test_the_first_that_is_not_valid_is_named(check, position):
    async def story(signer, other, verifier):
        checks = await checks_of(signer, other, 2 * CHECKS_PER_JOB + 3)
        for wrong in (
            checks[position]._replace(message=bytes(31) + b"\xff"),
            checks[position]._replace(signature=b""),
            checks[position]._replace(signer=b"short"),
            # A key of the one kind is no key of the other.
            checks[position]._replace(is_session=not checks[position].is_session),
        ):
            changed = [*checks]
            changed[position] = wrong
            changed[-1] = changed[-1]._replace(signature=b"\0" * 64)
            assert await verifier.find_invalid(changed) == position

    check(story)


def test_the_same_node_signs_the_same_twice(check):
    async def story(signer, other, verifier):
        assert await signer.sign(DIGEST) == await signer.sign(DIGEST)
        assert await signer.sign_session(DIGEST) == await signer.sign_session(DIGEST)

    check(story)
