"""`python -m quiver.live p2p`: a throw-away node that looks at a network and leaves. The crawl is in `p2p_crawl`.

It is a client in the DHT: it enters nobody's table. Each command gives a `Report`: data for programs, text for people.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import re
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from quiver.errors import MalformedMessage, QuiverError, Unavailable, UsageError
from quiver.identity.keys import KeyPair
from quiver.identity.peer_id import parse_peer_id, peer_id_cid, peer_id_cid36, peer_id_text
from quiver.ids import PeerId
from quiver.live import keyfile
from quiver.live.clock import LiveClock
from quiver.live.config import parse_kad
from quiver.live.config_network import load_network, parse_peer
from quiver.live.libp2p.host import Host
from quiver.live.log import LiveTrace
from quiver.live.membership import Membership, Mode
from quiver.live.names import resolve_names
from quiver.live.p2p_key import parse_hex, parse_key, parse_record_key
from quiver.params import Params
from quiver.quic.limits import Limits
from quiver.runtime import Nursery, Runtime
from quiver.values.identify import Identify
from quiver.values.peer import PeerInfo
from quiver.wire import multiaddr

PINGS_MAX = 1000
# Our protocol ids hold the hash of their network.
_FOREIGN_NETWORK = re.compile(r"/quiver/([0-9a-f]{16})/")
_KEY_TYPES = {0: "RSA", 1: "Ed25519", 2: "Secp256k1", 3: "ECDSA"}


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a command found."""

    data: Any
    text: str


@dataclass(frozen=True, kw_only=True)
class Session:
    """The throw-away node, and the peers it was told of."""

    host: Host
    membership: Membership
    known: tuple[PeerInfo, ...]
    names: dict[str, PeerInfo]
    "Of the peers a network file names."
    timeout_s: float

    async def join(self) -> None:
        """Meet the DHT; `Unavailable` says why not, `UsageError` that nobody was named."""
        if not self.known:
            raise UsageError("whom to ask? Give --network network.toml, or --peer with the multiaddr of a node")
        try:
            await self.membership.dht.bootstrap(self.known)
        except Unavailable as error:
            raise Unavailable(f"{error}{self.membership.why_silent(self.known)}{await self._hint()}") from error

    async def _hint(self) -> str:
        for info in self.known:
            try:
                told = await self.host.identify.ask(info.peer_id)
            except QuiverError:
                continue
            for protocol in told.protocols:
                if (found := _FOREIGN_NETWORK.match(protocol)) is not None:
                    return f". It is a node of network {found[1]}...: give the --network file with that hash"
        return ""

    async def find(self, text: str) -> PeerId:
        """The peer an operator named, with an address that can be dialled."""
        info = self.names.get(text)
        if info is None and text.startswith("/"):
            info = await resolve_names(parse_peer(text, where="ADDR"))
        if info is not None:
            self.host.learn(info)
            return info.peer_id
        peer = parse_named_peer(text)
        if not self.host.swarm.book.addresses(peer, LiveClock().now()):
            await self.join()
            await self.membership.dht.find_node(peer)
        return peer


@asynccontextmanager
async def opened(given: argparse.Namespace, keypair: KeyPair | None = None) -> AsyncIterator[Session]:
    """A node on a free port, in the network that was named."""
    known, names, prefix, params = [], {}, "", Params(rpc_timeout_s=given.timeout, dial_timeout_s=given.timeout)
    if given.network is not None:
        network = load_network(given.network)
        prefix, params = network.prefix(), network.params
        known = [parse_peer(text, where=str(given.network)) for text in network.bootstrap]
        names = {"bootstrap": known[0], "aggregator": parse_peer(network.aggregator.address, where=str(given.network))}
    known += [parse_peer(text, where="--peer") for text in given.peer]
    known = [await resolve_names(info) for info in known]
    names = {name: await resolve_names(info) for name, info in names.items()}
    kad = given.kad or (["quiver"] if prefix else ["quiver", "ipfs"])
    first = known[0].addresses if known else ()
    if (address := getattr(given, "address", "")).startswith("/"):
        first = (await resolve_names(parse_peer(address, where="ADDR"))).addresses
    host = Host(
        keypair or KeyPair(os.urandom(keyfile.SEED_BYTES)), host=_source_ip(first), network=prefix,
        limits=Limits(handshake_timeout_s=given.timeout),
    )  # fmt: skip
    await host.start()
    try:
        nothing = cast(Any, None)
        runtime = Runtime(
            clock=LiveClock(), transport=host, store=nothing, signer=nothing, verifier=nothing, ledger=nothing,
            trace=LiveTrace(), rng=random.Random(random.SystemRandom().getrandbits(64)), params=params,
        )  # fmt: skip
        membership = Membership(host, runtime, mode=Mode.CLIENT, ids=parse_kad(kad, where="--kad"))
        try:
            yield Session(
                host=host, membership=membership, known=tuple(known), names=names, timeout_s=given.timeout
            )  # fmt: skip
        finally:
            await membership.close()
    finally:
        await host.close()


def _source_ip(addresses: Sequence[bytes]) -> str:
    """The IP of this machine from which the first address is reached, so that others can dial us there. Sends nothing."""
    for address in addresses:
        where = multiaddr.quic_endpoint(address) or multiaddr.tcp_endpoint(address)
        if where is not None:
            with socket.socket(socket.AF_INET6 if ":" in where[0] else socket.AF_INET, socket.SOCK_DGRAM) as sock:
                try:
                    sock.connect(where)
                    return str(sock.getsockname()[0])
                except OSError as error:
                    raise Unavailable(
                        f"no way to {multiaddr.to_text(address)} from this machine: {error.strerror}"
                    ) from error
    return "0.0.0.0"


def parse_named_peer(text: str) -> PeerId:
    """Of a key file, a peer id in any form, or a multiaddr that ends in one."""
    path = Path(text)
    try:
        if not text.startswith("/") and path.is_file() or path.suffix == ".key":
            return keyfile.load(path).peer_id
        return parse_peer_id(text.rpartition("/p2p/")[2] if text.startswith("/") else text)
    except (MalformedMessage, ValueError, OSError) as error:
        raise UsageError(f"{error}; neither is there a key file of that name") from error


def _plain(info: PeerInfo) -> dict[str, Any]:
    return {"peer": peer_id_text(info.peer_id), "addresses": texts_of(info.addresses)}


def texts_of(addresses: Sequence[bytes]) -> list[str]:
    """Those that can be written; a stranger's may be of a kind we do not know."""
    texts = []
    for address in addresses:
        try:
            texts.append(multiaddr.to_text(address))
        except MalformedMessage:
            texts.append(f"0x{address.hex()}")
    return texts


def _lines(infos: Sequence[PeerInfo]) -> str:
    return "\n".join(
        line for info in infos for line in (peer_id_text(info.peer_id), *(f"  {text}" for text in texts_of(info.addresses)))
    )  # fmt: skip


# ---- the commands


async def show_id(given: argparse.Namespace) -> Report:
    """Every text form of a peer id."""
    peer = parse_named_peer(given.what)
    forms = {
        "base58": peer_id_text(peer), "cid-base32": peer_id_cid(peer), "cid-base36": peer_id_cid36(peer), "hex": peer.hex(),
        # PublicKey protobuf: its first field is the type; where only a hash is left nobody knows.
        "key": _KEY_TYPES.get(peer[3], "unknown") if peer[0] == 0 else "only its hash is in the id",
    }  # fmt: skip
    return Report(data=forms, text="\n".join(f"{name:10}  {form}" for name, form in forms.items()))


async def ping(given: argparse.Namespace) -> Report:
    """Round trips."""
    if not 1 <= given.count <= PINGS_MAX:
        raise UsageError(f"-n {given.count}: 1 to {PINGS_MAX} pings")
    clock = LiveClock()
    async with opened(given) as session:
        peer = await session.find(given.address)
        began_s = clock.now()
        link = await session.host.swarm.connect(peer)
        connect_ms = 1000 * (clock.now() - began_s)
        times_s = await session.host.pings.series(peer, given.count, timeout_s=session.timeout_s)
        times_ms = [1000 * time_s for time_s in times_s] + [None] * (given.count - len(times_s))
        where = multiaddr.to_text(link.return_address) if link.return_address else ":".join(map(str, link.address[:2]))
    got = [time_ms for time_ms in times_ms if time_ms is not None]
    data = {"peer": peer_id_text(peer), "address": where, "connect_ms": connect_ms, "rtt_ms": times_ms}
    rows = [f"{number + 1:5}  {'lost' if one is None else f'{one:8.2f} ms'}" for number, one in enumerate(times_ms)]
    total = f"{len(times_ms)} pings, {len(times_ms) - len(got)} lost"
    if got:
        total += f"; min {min(got):.2f}, mean {sum(got) / len(got):.2f}, max {max(got):.2f} ms"
    return Report(
        data=data, text="\n".join([f"{peer_id_text(peer)} at {where}, connected in {connect_ms:.1f} ms", *rows, total])
    )  # fmt: skip


async def identify(given: argparse.Namespace) -> Report:
    """What a peer says of itself."""
    async with opened(given) as session:
        peer = await session.find(given.address)
        told = await session.host.identify.ask(peer)
    data = describe(peer, told)
    rows = [f"{name:10}  {value}" for name, value in data.items() if isinstance(value, str)]
    for name in ("addresses", "protocols"):
        rows += [f"{name if not number else '':10}  {text}" for number, text in enumerate(data[name])]
    return Report(data=data, text="\n".join(rows))


def describe(peer: PeerId, told: Identify) -> dict[str, Any]:
    """Identify as plain values."""
    return {
        "peer": peer_id_text(peer), "agent": told.agent_version or "", "version": told.protocol_version or "",
        "sees_us_at": texts_of([told.observed_address])[0] if told.observed_address else "",
        "record": "signed" if told.signed_peer_record else "none",
        "addresses": texts_of(told.listen_addresses), "protocols": sorted(told.protocols),
    }  # fmt: skip


async def find_peer(given: argparse.Namespace) -> Report:
    """Where a peer can be dialled."""
    peer = parse_named_peer(given.what)
    async with opened(given) as session:
        await session.join()
        found = await session.membership.dht.find_node(peer)
    if not found or found[0].peer_id != peer:
        raise Unavailable(
            f"{peer_id_text(peer)} was not found: {len(found)} peers near it answered, and none of them is it; it may be down, "
            "in another network, or a client of the DHT"
        )
    return Report(data=_plain(found[0]), text=_lines(found[:1]))


async def provide(given: argparse.Namespace, stop: asyncio.Event) -> Report:
    """Announce a key, once or until Ctrl-C."""
    key, keypair = parse_key(given.what), keyfile.load(given.key) if given.key else None
    async with opened(given, keypair) as session:
        await session.join()
        held = await session.membership.dht.provide(key)
        if not held:
            raise Unavailable(
                "nobody took the record: no DHT server is near the key, or none of them can dial this machine"
            )
        if given.stay:
            async with Nursery() as nursery:
                nursery.start(session.membership.dht.run())
                await stop.wait()
                nursery.cancel()
        me = session.host.local_info()
    return Report(
        data={"key": key.hex(), "held_by": held, **_plain(me)},
        text=f"{held} peers hold the record of key {key.hex()} until its lease ends; they name\n{_lines([me])}",
    )  # fmt: skip


async def find_providers(given: argparse.Namespace) -> Report:
    """Who provides a key."""
    key = parse_key(given.what)
    async with opened(given) as session:
        await session.join()
        found = await session.membership.dht.find_providers(key)
    if not found:
        raise Unavailable(f"nobody provides key {key.hex()}, as far as the peers near it know")
    return Report(data=[_plain(info) for info in found], text=_lines(found))


async def put(given: argparse.Namespace) -> Report:
    """Store a value."""
    key = parse_record_key(given.what)
    value = parse_hex(given.value) if given.value.startswith("0x") else given.value.encode()
    async with opened(given) as session:
        await session.join()
        held = await session.membership.dht.put_value(key, value)
    if not held:
        raise Unavailable("nobody took the value: no DHT server near the key has a validator for it")
    return Report(data={"held_by": held}, text=f"{held} peers hold the value")


async def get(given: argparse.Namespace) -> Report:
    """Read a value."""
    key = parse_record_key(given.what)
    async with opened(given) as session:
        await session.join()
        value = await session.membership.dht.get_value(key)
    if value is None:
        raise Unavailable(f"nobody near {given.what} holds a value for it")
    return Report(data={"value": f"0x{value.hex()}"}, text=f"0x{value.hex()}")


async def crawl(given: argparse.Namespace) -> Report:
    """Everybody in the DHT."""
    from quiver.live import p2p_crawl

    async with opened(given) as session:
        return await p2p_crawl.crawl(session, parallel=given.parallel, graph=given.graph)


Command = Callable[[argparse.Namespace], Coroutine[Any, Any, Report]]
COMMANDS: dict[str, Command] = {
    "id": show_id, "ping": ping, "identify": identify, "find-peer": find_peer, "find-providers": find_providers, "put": put,
    "get": get, "crawl": crawl,
}  # fmt: skip
"All but `provide`, which may stay."
