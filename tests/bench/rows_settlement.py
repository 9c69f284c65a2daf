"""The aggregator: receipts into a durable store, trees, proofs, and an epoch of a million receipts from its crash to its close."""

from __future__ import annotations

import asyncio
import ssl
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

from quiver.errors import Unavailable
from quiver.identity import keys
from quiver.identity.keys import KeyPair
from quiver.identity.signing import leaf_bytes
from quiver.ids import ChannelId
from quiver.live.signer import SignaturePool
from quiver.live.stores.postgres import PostgresStore
from quiver.live.stores.postgres_server import PostgresServer
from quiver.live.stores.sqlite import SqliteStore
from quiver.ports import Store
from quiver.settlement.merkle import MerkleTree, hash_leaf
from quiver.values.ledger import Leaf
from tests.bench.ingest import Calendar, Load, digest, ingest, make_load, make_service
from tests.bench.measure import cpu_s, in_fresh_process, interleave, mean
from tests.bench.report import Goal, Row

RECEIPTS_LIMIT = 10_000.0
# Receipts in one frame under one acknowledgement, and what makes such frames: tests/scenarios/test_frame_sizes.py measures it.
FRAME_SIZES = {128: "50 requests/s on a channel", 5: "1 request/s on a channel", 1: "a lone request"}
STREAMS = 64
RSS_LIMIT_BYTES = float(1 << 30)
RESTART_LIMIT_S = 5.0
TREE_GOAL = Goal(value=1.3, at_most=True)
AT_LEAST, AT_MOST = Goal(value=1.0), Goal(value=1.0, at_most=True)
_PROC_TICKS_PER_S = 100
_SIGNATURE_ROUNDS = 2_000


class _Server:
    """A PostgreSQL server of the run's own, and the CPU time it has used."""

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        self._schemas = 0

    def open(self) -> Store:
        self._schemas += 1
        return PostgresStore(self._server.url, schema=f"quiver_bench_{self._schemas}")

    def cpu_s(self) -> float:
        """Of the server and its backends, gone ones too."""
        ticks = 0
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(stat.parent.name) == self._server.pid:
                ticks += sum(map(int, fields[11:15]))
            elif int(fields[1]) == self._server.pid:
                ticks += sum(map(int, fields[11:13]))
        return ticks / _PROC_TICKS_PER_S


@contextmanager
def _servers() -> Iterator[_Server | None]:
    """None, said in the report by the missing rows, where no PostgreSQL is installed."""
    with ExitStack() as stack:
        try:
            server = stack.enter_context(PostgresServer())
        except Unavailable:
            yield None
            return
        yield _Server(server)


async def _take(open_store: Callable[[], Store], load: Load, count: int) -> float:
    """CPU seconds of this process for the whole load; opening and closing are not counted."""
    store, pool = open_store(), SignaturePool()
    service = make_service(store, load.channels, pool, clock=Calendar())
    began = time.process_time()
    accepted = await ingest(service, load)
    spent = time.process_time() - began
    assert accepted == count
    await store.close()
    pool.close()
    return spent


def _signatures_rate(per_frame: int) -> float:
    """Receipts/CPU-s of nothing but a frame's signatures: each receipt's, the acknowledgement's, and that of our promise."""
    provider, payer, ours = (KeyPair(digest(name, 0)) for name in ("provider", "payer", "aggregator"))
    said = digest("said", 0)
    signed, acknowledged = provider.sign(said), payer.sign_session(said)

    def check() -> None:
        for _ in range(_SIGNATURE_ROUNDS):
            assert keys.verify(provider.public_key, said, signed)

    def frame() -> None:
        for _ in range(_SIGNATURE_ROUNDS):
            assert keys.verify_session(payer.session_address, said, acknowledged)
            ours.sign_session(said)

    return _SIGNATURE_ROUNDS / (cpu_s(check) + cpu_s(frame) / per_frame)


def _ingest_rows(server: _Server | None, *, quick: bool, command: str) -> list[Row]:
    wanted, repetitions = (8_192, 2) if quick else (16_384, 6)
    rows = []
    with tempfile.TemporaryDirectory(prefix="quiver-bench-") as directory:
        files = iter(Path(directory) / f"{number}.sqlite" for number in range(1000))
        for per_frame, cause in FRAME_SIZES.items():
            load = make_load(streams=STREAMS, receipts=wanted, per_frame=per_frame)
            count = wanted // STREAMS // per_frame * per_frame * STREAMS
            alone = _signatures_rate(per_frame)
            # Lone receipts come once in 5 s from a channel at most, and their three signatures alone take about all that the
            # limit allows: beside what those take, then, and without a goal.
            limit, goal = (alone, None) if per_frame == 1 else (RECEIPTS_LIMIT, AT_LEAST)
            for name, open_store in (
                ("SQLite", lambda: SqliteStore(next(files))),
                ("PostgreSQL", server and server.open),
            ):
                if open_store is None:
                    continue
                asyncio.run(_take(open_store, load, count))
                theirs = server.cpu_s() if server is not None else 0.0
                rates = [count / asyncio.run(_take(open_store, load, count)) for _ in range(repetitions)]
                ours = f"{mean(rates):,.0f} receipts/CPU-s"
                if name == "PostgreSQL" and server is not None:
                    spent = (server.cpu_s() - theirs) / repetitions / count
                    ours += f"; the server's CPU beside it: {spent * 1e6:.0f} µs a receipt"
                rows.append(
                    Row(
                        name=f"settlement: receipts, {per_frame} in a frame ({cause}), decoded, both signatures, checked, durable on {name}",
                        ours=ours, peer=f"their signatures alone: {alone:,.0f} receipts/CPU-s",
                        limit=f"{limit:,.0f} receipts/CPU-s", ratios=tuple(rate / limit for rate in rates), goal=goal,
                        command=command,
                    )
                )  # fmt: skip
    return rows


def _make_leaves(count: int) -> list[Leaf]:
    return [
        Leaf(epoch=5, channel=ChannelId(digest("channel", number)), cum=number, seq=number, head=digest("head", number))
        for number in range(count)
    ]


def _bare_root(leaves: list[bytes]) -> bytes:
    """The least Python does for a tree of 2^n leaves."""
    level = [sha256(leaf).digest() for leaf in leaves]
    while len(level) > 1:
        level = [sha256(b"\x01" + level[at] + level[at + 1]).digest() for at in range(0, len(level), 2)]
    return level[0]


def _tree_rows(*, quick: bool, command: str) -> list[Row]:
    power, repetitions, proofs = (14, 2, 10_000) if quick else (20, 5, 100_000)
    leaves = _make_leaves(1 << power)
    packed = [leaf_bytes(leaf) for leaf in leaves]
    made: list[MerkleTree] = []

    def ours() -> None:
        made[:] = [MerkleTree([hash_leaf(leaf) for leaf in leaves])]

    tree_s, bare_s = interleave(ours, lambda: _bare_root(packed), repetitions)
    tree = made[0]
    assert tree.root == _bare_root(packed)
    proofs_s = cpu_s(lambda: [tree.proof(number * 7919 % len(tree)) for number in range(proofs)])
    return [
        Row(
            name=f"settlement: tree of 2^{power} leaves, from leaf values to the root", ours=f"{mean(tree_s):.3f} CPU-s",
            peer=f"bare hashlib loop over packed leaves ({ssl.OPENSSL_VERSION.partition('  ')[0]}): {mean(bare_s):.3f} CPU-s",
            limit="-", ratios=tuple(one / other for one, other in zip(tree_s, bare_s, strict=True)), goal=TREE_GOAL,
            command=command,
        ),
        Row(
            name=f"settlement: proofs from a tree of 2^{power} leaves in memory", ours=f"{proofs / proofs_s:,.0f} proofs/CPU-s",
            peer="-", limit=f"{proofs / proofs_s:,.0f} proofs/CPU-s", ratios=(1.0,), goal=None, command=command,
        ),
    ]  # fmt: skip


def _epoch_rows(channels: int, receipts: int, *, by: str, command: str) -> list[Row]:
    """One epoch: made by the world `by`, killed before its end, loaded, closed, asked for proofs; each life in a process of its own."""
    module = "tests.bench.settlement_worlds"
    with tempfile.TemporaryDirectory(prefix="quiver-bench-") as directory:
        path = str(Path(directory) / "aggregator.sqlite")
        filled = in_fresh_process(by, module=module, path=path, channels=channels, receipts=receipts)
        closed = in_fresh_process("close", module=module, path=path, channels=channels)
    assert filled["accepted"] == receipts
    way = "taken in" if by == "fill" else "written straight into the store"
    name = f"settlement: epoch of {receipts:,} receipts in {channels:,} channels, {way}"
    ingest, after = filled.get("rss_bytes", 0), closed["rss_bytes"]
    lives = f"restart and close {after / 2**20:,.0f} MiB" + (f", ingest {ingest / 2**20:,.0f} MiB" if ingest else "")

    def row(what: str, ours: str, limit: str, ratio: float, goal: Goal | None) -> Row:
        return Row(
            name=f"{name}: {what}", ours=ours, peer="-", limit=limit, ratios=(ratio,), goal=goal, command=command
        )

    return [
        row(
            "restart before its end, SQLite", _both(closed, "restart"),
            f"{RESTART_LIMIT_S:g} s", closed["restart_cpu_s"] / RESTART_LIMIT_S, AT_MOST,
        ),
        row(
            "peak memory", lives, f"{RSS_LIMIT_BYTES / 2**20:,.0f} MiB", max(ingest, after) / RSS_LIMIT_BYTES, AT_MOST,
        ),
        row("close, root on the ledger", _both(closed, "close"), "-", 1.0, None),
        row("whole answers with a proof from the store", f"{closed['proofs_per_cpu_s']:,.0f} proofs/CPU-s", "-", 1.0, None),
    ]  # fmt: skip


def _both(told: dict[str, Any], what: str) -> str:
    return f"{told[what + '_cpu_s']:.2f} CPU-s ({told[what + '_s']:.1f} s by the clock)"


def rows(*, quick: bool, command: str) -> list[Row]:
    """All of them; those of PostgreSQL where it is installed."""
    with _servers() as server:
        result = _ingest_rows(server, quick=quick, command=command)
    result += _tree_rows(quick=quick, command=command)
    receipts = 1 << 16 if quick else 1 << 20
    result += _epoch_rows(receipts // 16, receipts, by="fill", command=command)
    # Every receipt a channel, the most leaves there can be; taking them in one by one would take five minutes.
    result += _epoch_rows(receipts, receipts, by="write_down", command=command)
    return result
