"""Signing and checking signatures off the event loop's thread: libsodium and libsecp256k1 release the interpreter lock.

Jobs that arrive in one turn of the loop travel to the worker as one batch, because a hop to a thread costs more than a
signature. Each batch's results come back in one call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

from quiver.errors import Unavailable
from quiver.identity import keys
from quiver.identity.keys import KeyPair
from quiver.ids import Address
from quiver.ports import SignatureCheck

# Above this the caller is told to come back later: at about 20,000 checks a second it is a third of a second of work.
SIGNATURES_WAITING_MAX = 8192
# Handed to a worker at once: about 10 ms, then their callers go on.
SIGNATURES_PER_BATCH = 256
# Of one caller's list in a job: a frame of thousands takes its turns between everybody else's.
CHECKS_PER_JOB = 64


class _Job(NamedTuple):
    function: Callable[..., Any]
    args: tuple[Any, ...]
    signatures: int
    future: asyncio.Future[Any]


class SignaturePool:
    """A few threads and one queue of jobs; `Unavailable` when `SIGNATURES_WAITING_MAX` wait. Make it inside a running loop."""

    def __init__(self, *, threads: int = 1) -> None:
        self._loop = asyncio.get_running_loop()
        self._executor = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="quiver-signatures")
        self._jobs: list[_Job] = []
        self._waiting = 0

    def run(self, function: Callable[..., Any], *args: Any, signatures: int = 1) -> asyncio.Future[Any]:
        """The result of `function(*args)`, which makes or checks as many `signatures`, computed on a worker with this turn's jobs."""
        if self._waiting >= SIGNATURES_WAITING_MAX:
            raise Unavailable(f"{self._waiting} signatures wait for a worker; try again", retry_after_s=1.0)
        future: asyncio.Future[Any] = self._loop.create_future()
        if not self._jobs:
            self._loop.call_soon(self._dispatch)
        self._jobs.append(_Job(function, args, signatures, future))
        self._waiting += signatures
        return future

    def close(self) -> None:
        """Finish what was dispatched, then stop the threads."""
        self._dispatch()
        self._executor.shutdown(wait=True)

    def _dispatch(self) -> None:
        jobs, self._jobs = self._jobs, []
        batch: list[_Job] = []
        signatures = 0
        for job in jobs:
            batch.append(job)
            signatures += job.signatures
            if signatures >= SIGNATURES_PER_BATCH:
                self._submit(batch)
                batch, signatures = [], 0
        if batch:
            self._submit(batch)

    def _submit(self, batch: list[_Job]) -> None:
        done: Future[list[Any]] = self._executor.submit(_compute, batch)
        done.add_done_callback(partial(self._hand_back, batch))

    def _hand_back(self, batch: list[_Job], done: Future[list[Any]]) -> None:
        """On the worker's thread: one call into the loop for the whole batch."""
        results = done.result()
        # A loop that is closed has nobody who waits.
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._settle, batch, results)

    def _settle(self, batch: list[_Job], results: list[Any]) -> None:
        for (_, _, signatures, future), result in zip(batch, results, strict=True):
            self._waiting -= signatures
            if future.done():
                continue
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)


def _compute(jobs: list[_Job]) -> list[Any]:
    results: list[Any] = []
    for job in jobs:
        try:
            results.append(job.function(*job.args))
        except Exception as error:
            results.append(error)
    return results


def _find_invalid(checks: Sequence[SignatureCheck]) -> int | None:
    for index, (signer, message, signature, is_session) in enumerate(checks):
        is_valid = (
            keys.verify_session(Address(signer), message, signature)
            if is_session
            else keys.verify(signer, message, signature)
        )
        if not is_valid:
            return index
    return None


class LiveSigner:
    """`Signer` over this node's key pair."""

    def __init__(self, keypair: KeyPair, pool: SignaturePool) -> None:
        self._keypair = keypair
        self._pool = pool
        self.peer_id = keypair.peer_id
        self.public_key = keypair.public_key
        self.session_public_key = keypair.session_public_key
        self.session_address = keypair.session_address
        self.account = keypair.account

    async def sign(self, message: bytes) -> bytes:
        """Ed25519, 64 bytes."""
        signature: bytes = await self._pool.run(self._keypair.sign, message)
        return signature

    async def sign_session(self, digest: bytes, session: Address | None = None) -> bytes:
        """secp256k1 over a 32-byte digest: r | s | v, 65 bytes, low s."""
        signature: bytes = await self._pool.run(self._keypair.sign_session, digest, session)
        return signature


class LiveVerifier:
    """`Verifier` on the pool."""

    def __init__(self, pool: SignaturePool) -> None:
        self._pool = pool

    async def verify(self, public_key: bytes, message: bytes, signature: bytes) -> bool:
        """Ed25519 as libsodium defines valid; False for anything else."""
        is_valid: bool = await self._pool.run(keys.verify, public_key, message, signature)
        return is_valid

    async def verify_session(self, address: Address, digest: bytes, signature: bytes) -> bool:
        """secp256k1, low s, recovers to `address`; False for anything else."""
        is_valid: bool = await self._pool.run(keys.verify_session, address, digest, signature)
        return is_valid

    async def find_invalid(self, checks: Sequence[SignatureCheck]) -> int | None:
        """Index of the first that is not valid, None if all are. One job, or one after the other for a long list."""
        for start in range(0, len(checks), CHECKS_PER_JOB):
            some = checks[start : start + CHECKS_PER_JOB]
            index: int | None = await self._pool.run(_find_invalid, some, signatures=len(some))
            if index is not None:
                return start + index
        return None
