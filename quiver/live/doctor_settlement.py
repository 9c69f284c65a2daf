"""What `doctor` says about a node's part in settlement: what it is concerned about, and of an aggregator its keys, bond and coin."""

from __future__ import annotations

from pathlib import Path

import msgspec

from quiver.concerns import KEY, TABLE, Held, decode_concerns
from quiver.errors import QuiverError
from quiver.ids import PeerId
from quiver.live.config import NodeConfig
from quiver.live.config_file import resolve
from quiver.live.doctor_database import read_row
from quiver.live.finding import Finding, Status, fail, ok
from quiver.live.stores.choice import find_url
from quiver.live.stores.reader import FileReader, readable
from quiver.live.times import utc_text


async def find_concerns(config: NodeConfig, path: Path, peer_id: PeerId) -> list[Finding]:
    """What the node said it can't help alone, as it last kept it; nothing where it has never run."""
    try:
        held = await _read(config, path, peer_id)
    except (QuiverError, msgspec.MsgspecError) as error:
        return [fail("warnings", f"cannot be read from the store: {error}", "see what `store` says above")]
    if held is None:
        return []
    if not held.concerns:
        return [ok("warnings", "none")]
    more = f"; {held.more} more are in the log" if held.more else ""
    return [
        Finding(
            check="warning", status=Status.WARN, detail=f"since {utc_text(one.since_ms)}: {one.detail}{more}", fix=one.fix
        )
        for one in held.concerns
    ]  # fmt: skip


async def _read(config: NodeConfig, path: Path, peer_id: PeerId) -> Held | None:
    place = resolve(path, config.store)
    url = find_url(config.store, place)
    if url is not None:
        return decode_concerns(read_row(url, peer_id, TABLE, KEY))
    if not place.exists():
        return None
    reader = FileReader(place)
    try:
        with readable(place):
            return decode_concerns(reader.get(TABLE, KEY))
    finally:
        await reader.close()
