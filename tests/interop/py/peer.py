"""A py-libp2p node that does what it is told: the commands of `../js/peer.mjs`, where the library has them.

Runs in a virtual environment of its own (`make interop`), so it imports nothing of ours. It differs from the js peer where
py-libp2p does: its DHT is always `/ipfs/kad/1.0.0`.
"""

from __future__ import annotations

import json
import logging
import os
import sys

import trio
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.serialization import deserialize_public_key
from libp2p.custom_types import TProtocol
from libp2p.exceptions import BaseLibp2pError
from libp2p.host.ping import ID as PING
from libp2p.host.ping import PingService, handle_ping
from libp2p.identity.identify.identify import ID as IDENTIFY
from libp2p.identity.identify.identify import parse_identify_response
from libp2p.kad_dht.kad_dht import DHTMode, KadDHT
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.records.validator import Validator
from libp2p.stream_muxer.exceptions import MuxedStreamEOF
from libp2p.tools.anyio_service import background_trio_service
from libp2p.transport.quic.exceptions import QUICError, QUICStreamClosedError
from libp2p.utils.varint import encode_varint_prefixed, read_length_prefixed_protobuf
from multiaddr import Multiaddr

ECHO = TProtocol("/quiver/interop/echo/1.0.0")
COUNT = TProtocol("/quiver/interop/count/1.0.0")
RESET = TProtocol("/quiver/interop/reset/1.0.0")
FRAME_BYTES = 32_000
READ_BYTES = 64 * 1024
COMMAND_S = 15.0
# Multihash prefix of SHA-256.
SHA2_256 = "1220"


async def chunks(stream):
    """What comes, until the other side's end.

    py-libp2p 0.8.1 may say the end before the last bytes, so it counts when it is said twice. Over QUIC it says "closed"
    for a clean end once our side has ended too, and for a reset.
    """
    muxed, has_ended = stream.muxed_stream, False
    while True:
        try:
            data = await muxed.read(READ_BYTES)
        except MuxedStreamEOF:
            # yamux says so after a reset too.
            if getattr(muxed, "reset_received", False):
                raise
            data = b""
        except QUICStreamClosedError:
            if muxed.is_reset():
                raise
            data = b""
        if data:
            yield data
        elif has_ended:
            return
        has_ended = not data


async def read_all(stream):
    return b"".join([data async for data in chunks(stream)])


def frames(size):
    """`size` random bytes in frames."""
    return [encode_varint_prefixed(os.urandom(min(FRAME_BYTES, size - at))) for at in range(0, size, FRAME_BYTES)]


# ---- what we serve


def guarded(handler):
    """py-libp2p 0.8.1 gives the whole connection up when a handler raises: a reset by the other side must not."""

    async def handle(stream):
        try:
            await handler(stream)
        except (BaseLibp2pError, QUICError, OSError):
            await stream.reset()

    return handle


async def echo(stream):
    async for data in chunks(stream):
        await stream.write(data)
    await stream.close()


async def count(stream):
    total = 0
    async for data in chunks(stream):
        total += len(data)
    await stream.write(encode_varint_prefixed(str(total).encode()))
    await stream.close()


async def reset(stream):
    await stream.read(READ_BYTES)
    await stream.reset()


class Anything(Validator):
    """Records of /interop/... are all good."""

    def validate(self, key, value):
        return None

    def select(self, key, values):
        return 0


# ---- what we do when told


class Commands:
    def __init__(self, host, dht):
        self.host = host
        self.dht = dht
        self.pings = PingService(host)

    async def dial(self, address):
        info = info_from_p2p_addr(Multiaddr(address))
        await self.host.connect(info)
        return {"peer": str(info.peer_id), "multiplexer": None}

    async def hang_up(self, peer):
        await self.host.disconnect(ID.from_string(peer))

    async def connections(self, peer):
        return [str(one) for one in self.host.get_network().get_connections(ID.from_string(peer))]

    async def ping(self, peer):
        return (await self.pings.ping(ID.from_string(peer)))[0]

    async def identify(self, peer):
        stream = await self.open_stream(peer, IDENTIFY)
        told = parse_identify_response(await read_length_prefixed_protobuf(stream))
        await stream.close()
        return {
            "peer": str(ID.from_pubkey(deserialize_public_key(told.public_key))),
            "protocol_version": told.protocol_version or None,
            "agent_version": told.agent_version or None,
            "addresses": [str(Multiaddr(one)) for one in told.listen_addrs],
            "observed": str(Multiaddr(told.observed_addr)) if told.observed_addr else None,
            "protocols": list(told.protocols),
        }

    async def protocols(self, peer):
        return self.host.get_peerstore().get_protocols(ID.from_string(peer))

    async def echo(self, peer, size):
        stream = await self.open_stream(peer, ECHO)
        written = frames(size)
        back = bytearray()

        async def read():
            back.extend(await read_all(stream))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            for one in written:
                await stream.write(one)
            await stream.close_write()
        sent = b"".join(written)
        return {"sent": len(sent), "received": len(back), "same": bytes(back) == sent}

    async def half_close(self, peer, size):
        stream = await self.open_stream(peer, COUNT)
        written = frames(size)
        for one in written:
            await stream.write(one)
        await stream.close_write()
        return {"sent": sum(map(len, written)), "counted": int((await read_all(stream))[1:])}

    async def be_reset(self, peer):
        stream = await self.open_stream(peer, RESET)
        await stream.write(encode_varint_prefixed(b"reset me"))
        try:
            return {"received": len(await read_all(stream)), "error": None, "code": None}
        except (BaseLibp2pError, QUICError) as error:
            code = getattr(stream.muxed_stream, "_reset_error_code", None)
            return {"received": 0, "error": type(error).__name__, "code": code}

    async def reset(self, peer):
        stream = await self.open_stream(peer, ECHO)
        await stream.write(encode_varint_prefixed(b"never mind"))
        await stream.read(READ_BYTES)
        await stream.reset()

    async def open(self, peer, protocol):
        stream = await self.open_stream(peer, TProtocol(protocol))
        agreed = stream.get_protocol()
        await stream.close()
        return agreed

    async def join(self, peer):
        return await self.dht.add_peer(ID.from_string(peer))

    async def find_peer(self, peer):
        found = await self.dht.find_peer(ID.from_string(peer))
        return None if found is None else describe(found)

    async def provide(self, key):
        return [] if await self.dht.provide(SHA2_256 + key) else ["provide gave False"]

    async def find_providers(self, key):
        return [describe(one) for one in await self.dht.find_providers(SHA2_256 + key)]

    async def put(self, key, value):
        await self.dht.put_value(key, bytes.fromhex(value))
        return []

    async def get(self, key):
        value = await self.dht.get_value(key)
        return None if value is None else value.hex()

    async def routing_table(self):
        return [str(one) for one in self.dht.routing_table.get_peer_ids()]

    async def open_stream(self, peer, protocol):
        return await self.host.new_stream(ID.from_string(peer), [protocol])


def describe(info):
    return {"peer": str(info.peer_id), "addresses": [str(one) for one in info.addrs]}


# ---- the dialogue


def say(line):
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


async def answer(commands, line):
    told = json.loads(line)
    number, name = told.pop("id"), told.pop("command")
    try:
        with trio.fail_after(COMMAND_S):
            say({"id": number, "result": await getattr(commands, name)(**told)})
    except Exception as error:
        say({"id": number, "error": type(error).__name__, "message": str(error)})


async def serve(options):
    listen = [Multiaddr(one) for one in options["listen"]]
    host = new_host(
        key_pair=create_new_key_pair(),
        muxer_preference="YAMUX",
        listen_addrs=listen,
        enable_quic=any("quic" in one for one in options["listen"]),
    )
    for protocol, handler in ((ECHO, echo), (COUNT, count), (RESET, reset), (PING, handle_ping)):
        host.set_stream_handler(protocol, guarded(handler))
    dht = KadDHT(host, DHTMode.SERVER)
    dht.register_validator("interop", Anything())
    async with host.run(listen_addrs=listen), background_trio_service(dht), trio.open_nursery() as nursery:
        say({"ready": {"peer": str(host.get_id()), "addresses": [str(one) for one in host.get_addrs()]}})
        commands, rest = Commands(host, dht), b""
        async for data in trio.lowlevel.FdStream(os.dup(sys.stdin.fileno())):
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                nursery.start_soon(answer, commands, line)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    trio.run(serve, json.loads(sys.argv[1]))
