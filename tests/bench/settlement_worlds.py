"""Aggregators with a million receipts, each step in a process of its own: `python -m tests.bench.settlement_worlds NAME JSON`."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Iterator
from typing import Any

from quiver.identity.keys import KeyPair
from quiver.ids import ChannelId
from quiver.live.signer import SignaturePool
from quiver.live.stores.sqlite import SqliteStore
from quiver.values.frames import AskProof
from quiver.values.ledger import ChannelState
from quiver.values.receipt import ChannelHead
from quiver.wire.protocols import RECEIPTS
from tests.bench.ingest import (
    CONTRACT,
    EPOCH_MS,
    Calendar,
    Load,
    digest,
    ingest,
    make_service,
    make_submission,
    open_channel,
)
from tests.bench.measure import peak_rss_bytes
from tests.live import many_receipts

# Providers that hand in at once: as many batches as may wait for the disk.
STREAMS = 4096
# No frame of a provider holds more than a channel has here.
FRAME_RECEIPTS_MAX = 16
PROOFS = 20_000


def _provider(number: int) -> KeyPair:
    return KeyPair(digest("provider", number))


def _frames(provider: KeyPair, channels: int, receipts: int, known: dict[ChannelId, ChannelState]) -> Iterator[bytes]:
    """Unsigned frames of a provider's channels, one channel after the other; the ledger knows only the current one."""
    for nonce in range(channels):
        state = open_channel(provider, nonce)
        known[state.channel] = state
        head, left = ChannelHead(), receipts
        while left:
            count = min(left, FRAME_RECEIPTS_MAX)
            frame, head = make_submission(provider, state, head, count, is_signed=False)
            yield frame
            left -= count
        del known[state.channel]


def fill(*, path: str, channels: int, receipts: int) -> dict[str, Any]:
    """`receipts` in `channels`, through everything but the verification of signatures, into the store at `path`; then it ends."""
    known: dict[ChannelId, ChannelState] = {}
    providers = [_provider(number) for number in range(STREAMS)]
    frames = [_frames(one, channels // STREAMS, receipts // channels, known) for one in providers]

    async def main() -> int:
        store, pool = SqliteStore(path), SignaturePool()
        service = make_service(store, known, pool, clock=Calendar(), trusts=True)
        accepted = await ingest(
            service, Load([(one.peer_id, own) for one, own in zip(providers, frames, strict=True)], known)
        )
        await store.close()
        pool.close()
        return accepted

    return {"accepted": asyncio.run(main()), "rss_bytes": peak_rss_bytes()}


def write_down(*, path: str, channels: int, receipts: int) -> dict[str, Any]:
    """The same receipts as `fill`, but written straight into the store: what an aggregator that took them has there."""

    async def main() -> None:
        store, keypairs = SqliteStore(path), [_provider(number) for number in range(STREAMS)]
        states = (open_channel(keypairs[n % STREAMS], n // STREAMS) for n in range(channels))
        rows = many_receipts.make_rows(
            # In the order of the keys: in any other the file's pages are written many times over.
            receipts // channels, channels=sorted((state.channel, state.provider) for state in states),
            epoch=Calendar().utc_ms() // EPOCH_MS, key=keypairs[0].public_key, contract=CONTRACT,
        )  # fmt: skip
        await many_receipts.write(store, rows)
        await store.close()

    asyncio.run(main())
    return {"accepted": receipts}


def close(*, path: str, channels: int) -> dict[str, Any]:
    """A restart on that store, the close of its epoch, then proofs of channels as a provider gets them: bytes of whole answers."""
    known: dict[ChannelId, ChannelState] = {}

    async def main() -> dict[str, Any]:
        clock = Calendar()
        pool = SignaturePool()
        began, began_cpu = time.perf_counter(), time.process_time()
        store = SqliteStore(path)
        service = make_service(store, known, pool, clock=clock, trusts=True)
        told = {"restart_s": time.perf_counter() - began, "restart_cpu_s": time.process_time() - began_cpu}
        told["restart_rss_bytes"] = peak_rss_bytes()
        epoch = clock.utc_ms() // EPOCH_MS
        clock.epochs_ahead = 1
        began, began_cpu = time.perf_counter(), time.process_time()
        await service.closing.close_due_epochs()
        told |= {"close_s": time.perf_counter() - began, "close_cpu_s": time.process_time() - began_cpu}
        told |= {"rss_bytes": peak_rss_bytes()}
        providers = [_provider(number) for number in range(STREAMS)]
        asked = [open_channel(providers[n % STREAMS], n // STREAMS) for n in range(min(PROOFS, channels))]
        known.update((state.channel, state) for state in asked)
        began_cpu = time.process_time()
        for state in asked:
            answer = service.answers.prove(AskProof(epoch=epoch, channel=state.channel))
            RECEIPTS.encode(answer)
            assert answer.proof is not None and answer.proof.count == channels
        told["proofs_per_cpu_s"] = len(asked) / (time.process_time() - began_cpu)
        await store.close()
        pool.close()
        return told

    return asyncio.run(main())


WORLDS = {"fill": fill, "write_down": write_down, "close": close}

if __name__ == "__main__":
    print(json.dumps(WORLDS[sys.argv[1]](**json.loads(sys.argv[2]))))
