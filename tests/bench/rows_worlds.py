"""Worlds against limits: Kademlia by the thousand, and full requests. Each repetition is a fresh process."""

from __future__ import annotations

from typing import Any

from tests.bench.measure import in_fresh_process, mean
from tests.bench.report import Goal, Row

MEMORY_LIMIT_BYTES = 150e6
# Frames per CPU second at 10,000 nodes: 1.5 times the 51,000 of PeerSim 1.0.5 with its Kademlia module (Java 17), measured on
# two shared cores; it found the target in 54 to 69 % of lookups.
MESSAGES_LIMIT = 75_000.0
FOUND_LIMIT = 0.995
REQUESTS_LIMIT = 3_000.0
AT_LEAST, AT_MOST = Goal(value=1.0), Goal(value=1.0, at_most=True)


def _kademlia(nodes: int, *, encoded: bool, goal: Goal | None, command: str) -> tuple[Row, dict[str, Any]]:
    result = in_fresh_process("kademlia", nodes=nodes, encoded=encoded)
    rate = result["messages_per_cpu_s"]
    row = Row(
        name=f"kademlia: {nodes:,} nodes, {nodes:,} lookups, frames {'encoded' if encoded else 'sized'}",
        ours=f"{rate:,.0f} messages/CPU-s ({result['cpu_s']:.0f} CPU-s)", peer="-",
        limit=f"{MESSAGES_LIMIT:,.0f} messages/CPU-s", ratios=(rate / MESSAGES_LIMIT,), goal=goal, command=command,
    )  # fmt: skip
    return row, result


def kademlia_rows(*, quick: bool, command: str) -> list[Row]:
    """Messages per CPU second with sized frames, targets found, memory."""
    nodes = 1_000 if quick else 10_000
    speed, result = _kademlia(nodes, encoded=False, goal=AT_LEAST, command=command)
    found, rss = result["found"], result["rss_bytes"]
    return [
        speed,
        Row(
            name=f"kademlia: {nodes:,} nodes, lookups that find their target", ours=f"{found:.2%}", peer="-",
            limit=f"{FOUND_LIMIT:.1%}", ratios=(found / FOUND_LIMIT,), goal=AT_LEAST, command=command,
        ),
        Row(
            name=f"kademlia: {nodes:,} nodes, peak memory beyond the imported modules", ours=f"{rss / 1e6:.0f} MB", peer="-",
            limit=f"{MEMORY_LIMIT_BYTES / 1e6:.0f} MB", ratios=(rss / MEMORY_LIMIT_BYTES,), goal=AT_MOST, command=command,
        ),
    ]  # fmt: skip


def kademlia_encoded_rows(*, quick: bool, command: str) -> list[Row]:
    """Messages per CPU second when every frame is encoded and decoded: to stand beside the row above, without a goal."""
    return [_kademlia(1_000 if quick else 10_000, encoded=True, goal=None, command=command)[0]]


def request_rows(*, quick: bool, command: str) -> list[Row]:
    """Full requests per CPU second, cheapest and truest fidelity; real signatures are libsodium's time, so they have no goal."""
    repetitions = 2 if quick else 3
    rows = []
    for chunks, signatures, duration_s, goal in (
        ("coalesced", "modelled", 10.0, AT_LEAST),
        ("token", "real", 2.0, None),
    ):
        runs = [
            in_fresh_process(
                "requests",
                duration_s=1.0 if quick else duration_s,
                chunks=chunks,
                signatures=signatures,
                seed=1 + number,
            )
            for number in range(repetitions)
        ]
        rates = [_rate(run) for run in runs]
        rows.append(
            Row(
                name=f"requests-1m: {runs[0]['requests']:,} full requests, chunks {chunks}, signatures {signatures}",
                ours=f"{mean(rates):,.0f} requests/CPU-s", peer="-", limit=f"{REQUESTS_LIMIT:,.0f} requests/CPU-s",
                ratios=tuple(rate / REQUESTS_LIMIT for rate in rates), goal=goal, command=command,
            )
        )  # fmt: skip
    return rows


def _rate(run: dict[str, Any]) -> float:
    """Completed requests per CPU second; a run that drops some is no measurement."""
    assert run["completed"] == run["requests"], f"only {run['completed']} of {run['requests']} requests completed"
    return float(run["completed"]) / float(run["cpu_s"])
