"""A network of nodes by three makers: whatever one of them provides, each of the others finds."""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import asynccontextmanager

import pytest

from quiver.identity.peer_id import peer_id_text
from quiver.live.libp2p.host import Kind
from quiver.wire.kad import KAD_IPFS
from tests.interop.met import Background, info_of, know_each_other, member, multihash, running
from tests.interop.ours import address

pytestmark = pytest.mark.interop

OURS, STRANGERS = 5, ("js", "js", "js", "py", "py")


@asynccontextmanager
async def network(strangers):
    """Ours join through the first of them; each stranger meets one of ours, every other one by dialling it."""
    ours = [member(KAD_IPFS) for _ in range(OURS)]
    async with running(*ours):
        await asyncio.gather(*[one.dht.bootstrap([ours[0].info]) for one in ours[1:]])
        for number, (one, other) in enumerate(zip(ours, strangers, strict=True)):
            if number % 2:
                await one.dht.bootstrap([info_of(other, Kind.QUIC)])
            else:
                await other.call("dial", address=address(one.host))
            await know_each_other(one, other)
        yield ours


@pytest.fixture
def mixed(run, start):
    """Ours and the strangers; the strangers are stopped at the end."""
    strangers = [start(kind, kad=KAD_IPFS) for kind in STRANGERS]
    background = Background(run)
    yield background.enter(network(strangers)), strangers
    background.leave()
    for other in strangers:
        run(other.stop())


def test_every_record_is_found_from_every_node(run, mixed):
    ours, strangers = mixed
    names = [peer_id_text(one.peer_id) for one in ours] + [other.peer for other in strangers]
    keys = {name: hashlib.sha256(name.encode()).hexdigest() for name in names}

    async def found_by_us(one, key):
        return {peer_id_text(info.peer_id) for info in await one.dht.find_providers(multihash(key))}

    async def found_by(other, key):
        return {told["peer"] for told in await other.call("find_providers", key=key)}

    async def story():
        held = await asyncio.gather(*[one.dht.provide(multihash(keys[peer_id_text(one.peer_id)])) for one in ours])
        # Not only by ours.
        assert min(held) >= OURS
        for other in strangers:
            assert await other.call("provide", key=keys[other.peer]) == []
        for name, key in keys.items():
            asked = [found_by_us(one, key) for one in ours] + [found_by(other, key) for other in strangers]
            assert dict(zip(names, await asyncio.gather(*asked), strict=True)) == dict.fromkeys(names, {name})

    run(story())
