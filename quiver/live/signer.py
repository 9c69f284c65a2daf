"""Signing and checking signatures off the event loop's thread: libsodium and libsecp256k1 release the interpreter lock.

Jobs that arrive in one turn of the loop travel to the worker as one batch, because a hop to a thread costs more than a
signature. Each batch's results come back in one call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

from quiver.errors import Unavailable
from quiver.identity import keys
from quiver.identity.keys import KeyPair
from quiver.ids import Address

# Above this the caller is told to come back later: at about 20,000 checks a second it is a third of a second of work.
JOBS_WAITING_MAX = 8192
BATCH_JOBS_MAX = 256

_Job = tuple[Callable[..., Any], tuple[Any, ...], asyncio.Future[Any]]


class SignaturePool:
    """A few threads and one queue of jobs; `Unavailable` when `JOBS_WAITING_MAX` wait. Make it inside a running loop."""

    def __init__(self, *, threads: int = 1) -> None:
        self._loop = asyncio.get_running_loop()
        self._executor = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="quiver-signatures")
        self._jobs: list[_Job] = []
        self._waiting = 0

    def run(self, function: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        """The result of `function(*args)`, computed on a worker with the other jobs of this turn."""
        if self._waiting >= JOBS_WAITING_MAX:
            raise Unavailable(f"{self._waiting} signatures wait for a worker; try again", retry_after_s=1.0)
        future: asyncio.Future[Any] = self._loop.create_future()
        if not self._jobs:
            self._loop.call_soon(self._dispatch)
        self._jobs.append((function, args, future))
        self._waiting += 1
        return future

    def close(self) -> None:
        """Finish what was dispatched, then stop the threads."""
        self._dispatch()
        self._executor.shutdown(wait=True)

    def _dispatch(self) -> None:
        jobs, self._jobs = self._jobs, []
        for start in range(0, len(jobs), BATCH_JOBS_MAX):
            batch = jobs[start : start + BATCH_JOBS_MAX]
            done: Future[list[Any]] = self._executor.submit(_compute, [(function, args) for function, args, _ in batch])
            done.add_done_callback(partial(self._hand_back, batch))

    def _hand_back(self, batch: list[_Job], done: Future[list[Any]]) -> None:
        """On the worker's thread: one call into the loop for the whole batch."""
        results = done.result()
        # A loop that is closed has nobody who waits.
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._settle, batch, results)

    def _settle(self, batch: list[_Job], results: list[Any]) -> None:
        self._waiting -= len(batch)
        for (_, _, future), result in zip(batch, results, strict=True):
            if future.done():
                continue
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)


def _compute(calls: list[tuple[Callable[..., Any], tuple[Any, ...]]]) -> list[Any]:
    results: list[Any] = []
    for function, args in calls:
        try:
            results.append(function(*args))
        except Exception as error:
            results.append(error)
    return results


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
