"""Two of our nodes and a stranger in one DHT, as `node.py` builds ours: the second of ours is met by the stranger through the first."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from quiver.identity.peer_id import parse_peer_id, peer_id_text
from quiver.ids import PeerId
from quiver.live.libp2p.host import BOTH, Kind
from quiver.live.membership import VALIDATORS, Mode
from quiver.params import Params
from quiver.runtime import Nursery
from quiver.values.peer import PeerInfo
from quiver.wire.multiaddr import from_text
from tests.interop.foreign import ForeignPeer
from tests.interop.ours import PARTS
from tests.live.meeting import Peer, until

# Multihash prefix of SHA-256.
SHA2_256 = b"\x12\x20"


class Anything:
    """`Validator` of /interop, as both programs have it: every value is good, and as good as another."""

    def check(self, key: bytes, value: bytes) -> None:
        pass

    def select(self, key: bytes, values: Sequence[bytes]) -> int:
        return 0


def member(kad: str, kinds: Sequence[Kind] = BOTH) -> Peer:
    """A server of the DHT `kad`, with a key of its own and the constants of a public network; not started."""
    number = random.SystemRandom().getrandbits(255)
    validators = {**VALIDATORS, "interop": Anything()}
    return Peer(number, mode=Mode.SERVER, ids=(kad,), params=Params(), validators=validators, kinds=kinds)


@asynccontextmanager
async def running(*members: Peer) -> AsyncIterator[None]:
    """Started, each with its loops beside the block."""
    started = []
    try:
        for one in members:
            started.append(one)
            await one.start()
        async with Nursery() as nursery:
            for one in members:
                nursery.start(one.membership.run())
                nursery.start(one.dht.run())
            try:
                yield
            finally:
                nursery.cancel()
    finally:
        for one in started:
            await one.close()


def peer_id_of(other: ForeignPeer) -> PeerId:
    """As ours know it."""
    return parse_peer_id(other.peer)


def info_of(other: ForeignPeer, kind: Kind) -> PeerInfo:
    """What ours are told of a stranger."""
    return PeerInfo(peer_id=peer_id_of(other), addresses=(from_text(other.address("/ip4/", PARTS[kind])),))


def multihash(key: str) -> bytes:
    """Of a digest in hex, which is how both programs are told a key."""
    return SHA2_256 + bytes.fromhex(key)


async def know_each_other(one: Peer, other: ForeignPeer) -> None:
    """Until each is in the other's routing table; they are connected already."""
    us = peer_id_text(one.peer_id)
    # py-libp2p refuses until identify has told it that we are of the DHT; js-libp2p asks and pings us by itself.
    while not await other.call("join", peer=us):
        await asyncio.sleep(0.05)
    while us not in await other.call("routing_table"):
        await asyncio.sleep(0.05)
    await until(lambda: peer_id_of(other) in one.dht.table, "the stranger in our table")


class Met(NamedTuple):
    """`near` and `other` dialled each other; `far` joined through `near` before that."""

    near: Peer
    far: Peer
    other: ForeignPeer


class Background:
    """A story that is entered by one call of a test runner and left by a later one: both happen in one task."""

    def __init__(self, run: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        self._run = run
        self._leave = asyncio.Event()

    def enter(self, block: Any) -> Any:
        """What the async context manager `block` yields; its end waits for `leave`."""

        async def begin() -> Any:
            entered = asyncio.get_running_loop().create_future()

            async def stay() -> None:
                async with block as value:
                    entered.set_result(value)
                    await self._leave.wait()

            self._task = asyncio.get_running_loop().create_task(stay())
            await asyncio.wait([entered, self._task], return_when=asyncio.FIRST_COMPLETED)
            if self._task.done():
                self._task.result()
            return entered.result()

        return self._run(begin())

    def leave(self) -> None:
        """The end of the block."""

        async def end() -> None:
            self._leave.set()
            await self._task

        self._run(end())
