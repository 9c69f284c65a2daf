"""Signer and Verifier on worker threads."""

from __future__ import annotations

import asyncio

import pytest

from quiver.errors import Unavailable
from quiver.identity import keys
from quiver.identity.keys import KeyPair
from quiver.live import signer as signer_module
from quiver.live.signer import LiveSigner, LiveVerifier, SignaturePool
from quiver.ports import SignatureCheck

KEYS = KeyPair(b"\x01" * 32)


def run(story):
    async def main():
        pool = SignaturePool()
        try:
            return await story(pool)
        finally:
            pool.close()

    return asyncio.run(main())


def test_signatures_are_the_key_pairs_and_verify():
    async def story(pool):
        signer, verifier = LiveSigner(KEYS, pool), LiveVerifier(pool)
        assert (signer.peer_id, signer.public_key, signer.account) == (KEYS.peer_id, KEYS.public_key, KEYS.account)
        signature = await signer.sign(b"message")
        assert signature == KEYS.sign(b"message")
        assert await verifier.verify(KEYS.public_key, b"message", signature)
        assert not await verifier.verify(KEYS.public_key, b"other", signature)
        assert not await verifier.verify(b"short", b"message", b"short")
        digest = b"d" * 32
        session = await signer.sign_session(digest)
        assert await verifier.verify_session(signer.session_address, digest, session)
        assert not await verifier.verify_session(signer.account, digest, session)

    run(story)


def test_jobs_of_one_turn_are_one_batch_and_keep_their_answers_apart():
    async def story(pool):
        batches = []
        submit = pool._executor.submit
        pool._executor.submit = lambda function, calls: batches.append(len(calls)) or submit(function, calls)
        signer = LiveSigner(KEYS, pool)
        signatures = await asyncio.gather(*(signer.sign(b"%d" % n) for n in range(10)))
        assert batches == [10]
        assert all(keys.verify(KEYS.public_key, b"%d" % n, signature) for n, signature in enumerate(signatures))

    run(story)


def test_an_error_reaches_its_caller_only():
    async def story(pool):
        bad, good = pool.run(bytes.fromhex, "zz"), pool.run(bytes.fromhex, "00")
        with pytest.raises(ValueError):
            await bad
        assert await good == b"\x00"

    run(story)


def test_a_caller_that_gives_up_disturbs_nobody():
    async def story(pool):
        gone, stays = pool.run(bytes.fromhex, "01"), pool.run(bytes.fromhex, "02")
        gone.cancel()
        assert await stays == b"\x02"

    run(story)


def test_waiting_jobs_are_bounded(monkeypatch):
    monkeypatch.setattr(signer_module, "SIGNATURES_WAITING_MAX", 3)

    async def story(pool):
        jobs = [pool.run(bytes.fromhex, "00") for _ in range(3)]
        with pytest.raises(Unavailable) as caught:
            pool.run(bytes.fromhex, "00")
        assert caught.value.retry_after_s == 1.0
        await asyncio.gather(*jobs)
        assert await pool.run(bytes.fromhex, "05") == b"\x05"

    run(story)


def test_a_list_counts_as_many_signatures_as_it_has_and_takes_turns_with_others(monkeypatch):
    monkeypatch.setattr(signer_module, "SIGNATURES_WAITING_MAX", 6)
    monkeypatch.setattr(signer_module, "CHECKS_PER_JOB", 2)

    async def story(pool):
        verifier, batches = LiveVerifier(pool), []
        submit = pool._executor.submit
        pool._executor.submit = lambda function, jobs: (
            batches.append([job.signatures for job in jobs]) or submit(function, jobs)
        )
        checks = [SignatureCheck(KEYS.public_key, b"%d" % n, KEYS.sign(b"%d" % n)) for n in range(5)]
        lists = [asyncio.create_task(verifier.find_invalid(checks)) for _ in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(Unavailable, match="6 signatures wait"):
            pool.run(bytes.fromhex, "00")
        assert await asyncio.gather(*lists) == [None, None, None]
        assert sorted(batches) == [[1, 1, 1], [2, 2, 2], [2, 2, 2]]

    run(story)


def test_a_worker_is_given_no_more_signatures_at_once_than_a_batch(monkeypatch):
    monkeypatch.setattr(signer_module, "SIGNATURES_PER_BATCH", 4)

    async def story(pool):
        batches = []
        submit = pool._executor.submit
        pool._executor.submit = lambda function, jobs: (
            batches.append([job.signatures for job in jobs]) or submit(function, jobs)
        )
        await asyncio.gather(*(pool.run(bytes.fromhex, "00", signatures=count) for count in (3, 3, 1, 1, 1, 1, 1)))
        assert batches == [[3, 3], [1, 1, 1, 1], [1]]

    run(story)
