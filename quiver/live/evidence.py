"""`python -m quiver.live evidence`: what an aggregator suspects, read from its store beside the running node, or checked in a file.

A file store is opened read-only, so nothing waits for us; a PostgreSQL store is one process's, so stop the node first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from quiver.aggregator.fraud import load_evidence
from quiver.errors import BadSignature, MalformedMessage, UsageError
from quiver.identity import keys
from quiver.identity.peer_id import compute_peer_id, peer_id_text
from quiver.live import config, config_file, keyfile
from quiver.live.stores.reader import open_to_read, readable
from quiver.ports import SignatureCheck
from quiver.receipts.evidence import read_line, verify_evidence, write_line
from quiver.values.evidence import SignedEvidence

LINES_MAX = 100_000


async def read_store(path: Path) -> list[SignedEvidence]:
    """What the aggregator of the config at `path` has signed and kept."""
    loaded = config_file.load(path, config.AggregatorConfig)
    place = config_file.resolve(path, loaded.store)
    store = open_to_read(loaded.store, place, keyfile.load(config_file.resolve(path, loaded.key)).peer_id)
    try:
        with readable(place):
            return list(load_evidence(store))
    finally:
        await store.close()


class _Verifier:
    """The `Verifier` port for a command that does nothing else meanwhile."""

    async def verify(self, public_key: bytes, message: bytes, signature: bytes) -> bool:
        return keys.verify(public_key, message, signature)

    async def verify_session(self, address: object, digest: bytes, signature: bytes) -> bool:
        raise UsageError("evidence has no session signatures")

    async def find_invalid(self, checks: Sequence[SignatureCheck]) -> int | None:
        raise UsageError("evidence is checked line by line")


async def check_file(path: Path) -> list[SignedEvidence]:
    """The lines of a file, each with a signature that verifies; `UsageError` names the first line that is not so."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    if len(lines) > LINES_MAX:
        raise UsageError(f"{path}: {len(lines)} lines, at most {LINES_MAX} are read")
    found = []
    for number, line in enumerate(lines, 1):
        try:
            signed = read_line(line)
            await verify_evidence(_Verifier(), signed)
        except (MalformedMessage, BadSignature) as error:
            raise UsageError(f"{path}, line {number}: {error}") from error
        found.append(signed)
    return found


def render(found: Sequence[SignedEvidence], *, as_json: bool) -> str:
    """JSON lines, or a few words a line for people, the most suspicious first."""
    if as_json:
        return "\n".join(write_line(one).decode() for one in found)
    if not found:
        return "nobody is suspected"
    ordered = sorted(found, key=lambda one: (one.evidence.detector, -one.evidence.score, one.evidence.peer))
    return "\n".join(
        f"{one.evidence.detector:13} {one.evidence.score:8.2f} > {one.evidence.threshold:<6g} {peer_id_text(one.evidence.peer)}"
        f"  {'; '.join(one.evidence.reasons)}  (seen by {peer_id_text(compute_peer_id(one.witness))[-8:]})"
        for one in ordered
    )


def run(*, config_path: Path | None, file: Path | None, as_json: bool) -> str:
    """What the command prints."""
    if (config_path is None) == (file is None):
        raise UsageError("give --config of an aggregator, or --check FILE with evidence of somebody else")
    found = asyncio.run(read_store(config_path) if config_path is not None else check_file(file))  # type: ignore[arg-type]
    return render(found, as_json=as_json)
