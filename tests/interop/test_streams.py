"""js-libp2p and py-libp2p over QUIC and over TCP, both dial directions: who is who, streams and how they end."""

from __future__ import annotations

import asyncio
import os

import pytest

from quiver.errors import PeerUnreachable, StreamReset, WireCode
from quiver.identity.peer_id import parse_peer_id, peer_id_text
from quiver.live.libp2p.host import Kind
from quiver.quic.limits import Limits
from quiver.values.peer import PeerInfo
from quiver.wire.framing import encode_frame
from quiver.wire.multiaddr import from_text
from tests.interop.foreign import CommandFailed
from tests.interop.ours import COUNT, ECHO, FRAME_BYTES, NOBODYS, PARTS, RESET, RESET_CODE, Way, address, serve

pytestmark = pytest.mark.interop

MEGABYTE = 1_000_000
# 31 frames of 32,000 bytes and one of 8,000, each after a length of 3 and 2 bytes.
MEGABYTE_FRAMED = MEGABYTE + 31 * 3 + 2
TIMEOUT_S = 10.0


async def ask(node, way, protocol, frames=(b"question",)):
    """Frames that come back until the peer's end; our end follows the frames."""
    stream = await node.open(way.info().peer_id, protocol, timeout_s=TIMEOUT_S)

    async def write():
        for frame in frames:
            await stream.send(frame)
        stream.finish()

    writing = asyncio.create_task(write())
    back = []
    while (frame := await stream.receive()) is not None:
        back.append(frame)
    await writing
    return back


async def dialled(node, way):
    """The foreign peer dials ours; the id of ours as text."""
    told = await way.other.call("dial", address=address(node))
    assert told["peer"] == peer_id_text(node.peer_id)
    return told["peer"]


def test_we_dial_and_a_megabyte_in_frames_comes_back(run, way):
    async def story():
        async with way.opened() as node:
            node.learn(way.info())
            frames = [os.urandom(FRAME_BYTES)] * 31 + [os.urandom(8_000)]
            assert await ask(node, way, ECHO, frames) == frames
            assert node.rtt_s(way.info().peer_id) < TIMEOUT_S

    run(story())


def test_it_dials_us_and_a_megabyte_in_frames_comes_back(run, way):
    async def story():
        async with way.opened() as node:
            seen = serve(node)
            us = await dialled(node, way)
            told = await way.other.call("echo", peer=us, size=MEGABYTE)
            assert told == {"sent": MEGABYTE_FRAMED, "received": MEGABYTE_FRAMED, "same": True}
            assert seen.peers == [way.other.peer] and not seen.errors

    run(story())


def test_a_connection_it_dialled_carries_our_streams_too(run, way):
    async def story():
        async with way.opened() as node:
            await dialled(node, way)
            # No address was learned: only the connection that came in can be used.
            assert await ask(node, way, ECHO) == [b"question"]

    run(story())


def test_we_end_our_side_and_its_answer_comes_after_that(run, way):
    async def story():
        async with way.opened() as node:
            node.learn(way.info())
            frames = [b"x" * 100] * 300
            assert await ask(node, way, COUNT, frames) == [str(300 * len(encode_frame(b"x" * 100))).encode()]
            assert await ask(node, way, COUNT, []) == [b"0"]

    run(story())


def test_it_ends_its_side_and_our_answer_comes_after_that(run, way):
    async def story():
        async with way.opened() as node:
            serve(node)
            us = await dialled(node, way)
            # Lengths of 1, 2 and 3 bytes; the last are two frames.
            for size, framed in ((10, 11), (1_000, 1_002), (60_000, 60_006)):
                assert await way.other.call("half_close", peer=us, size=size) == {"sent": framed, "counted": framed}

    run(story())


def test_we_see_its_reset(run, way):
    async def story():
        async with way.opened() as node:
            node.learn(way.info())
            stream = await node.open(way.info().peer_id, RESET, timeout_s=TIMEOUT_S)
            await stream.send(b"reset me")
            with pytest.raises(StreamReset) as ending:
                await stream.receive()
            # Neither library sends a code with it.
            assert ending.value.code == WireCode.NONE
            assert await ask(node, way, ECHO) == [b"question"]

    run(story())


def test_our_handler_sees_its_reset_and_the_connection_lives_on(run, way):
    async def story():
        async with way.opened() as node:
            seen = serve(node)
            us = await dialled(node, way)
            await way.other.call("reset", peer=us)
            while not seen.errors:
                await asyncio.sleep(0.01)
            assert [type(error) for error in seen.errors] == [StreamReset]
            assert (await way.other.call("echo", peer=us, size=10))["same"]

    run(story())


def test_it_sees_our_reset_as_far_as_it_sees_any(run, way):
    """js-libp2p takes a reset over QUIC for an end, also its own (test_judges). py-libp2p alone shows a code, over QUIC."""

    async def story():
        async with way.opened() as node:
            serve(node)
            us = await dialled(node, way)
            told = await way.other.call("be_reset", peer=us)
            sort = (way.other.kind, way.kind)
            assert told["received"] == 0 and (told["error"] is None) == (sort == ("js", Kind.QUIC))
            assert told["code"] == (RESET_CODE if sort == ("py", Kind.QUIC) else None)
            assert (await way.other.call("echo", peer=us, size=10))["same"]

    run(story())


def test_a_protocol_it_does_not_serve_is_refused_by_name(run, way):
    async def story():
        async with way.opened() as node:
            node.learn(way.info())
            stream = await node.open(way.info().peer_id, NOBODYS, timeout_s=TIMEOUT_S)
            await stream.send(b"question")
            # js-libp2p says "na", takes our frame for another proposal and resets: over QUIC the reset may overtake the "na".
            with pytest.raises(StreamReset) as ending:
                await stream.receive()
            assert ending.value.code == WireCode.NEGOTIATION_FAILED
            assert await ask(node, way, ECHO) == [b"question"]

    run(story())


def test_a_protocol_we_do_not_serve_is_refused_by_name(run, way):
    async def story():
        async with way.opened() as node:
            serve(node)
            us = await dialled(node, way)
            with pytest.raises(CommandFailed) as refusal:
                await way.other.call("open", peer=us, protocol=NOBODYS.id)
            assert refusal.value.name in ("UnsupportedProtocolError", "StreamFailure")
            assert await way.other.call("open", peer=us, protocol=ECHO.id) == ECHO.id

    run(story())


def test_nine_of_us_dial_it_at_once(run, way):
    async def one(number):
        async with way.opened() as node:
            node.learn(way.info())
            return await ask(node, way, ECHO, [b"%d" % number])

    async def story():
        assert await asyncio.gather(*map(one, range(9))) == [[b"%d" % number] for number in range(9)]

    run(story())


def test_it_dials_us_nine_times_in_a_row(run, way):
    async def story():
        async with way.opened() as node:
            serve(node)
            for _ in range(9):
                us = await dialled(node, way)
                assert (await way.other.call("echo", peer=us, size=10))["same"]
                await way.other.call("hang_up", peer=us)

    run(story())


@pytest.mark.parametrize("kind", Kind)
def test_a_peer_that_vanishes_right_after_its_handshake_is_a_clean_failure(run, start, kind):
    """js-libp2p lets 5 connections a second of a host in; it drops others after their handshake, most without a word."""
    way = Way(start("js", inbound_per_second=5), kind)
    limits = Limits(idle_timeout_s=2.0)

    async def one():
        async with way.opened(limits=limits) as node:
            node.learn(way.info())
            try:
                return await ask(node, way, ECHO) == [b"question"]
            except (PeerUnreachable, StreamReset):
                return False

    async def story():
        served = await asyncio.gather(*[one() for _ in range(9)])
        assert served.count(True) >= 5
        # The second is over.
        await asyncio.sleep(1.1)
        assert await one()

    run(story())


def test_we_refuse_a_peer_that_is_not_the_one_we_dialled(run, way, js, py):
    async def story():
        stranger = js if way.other is py else py
        address = way.other.address("/ip4/", PARTS[way.kind]).removesuffix(f"/p2p/{way.other.peer}")
        async with way.opened() as node:
            node.learn(PeerInfo(peer_id=parse_peer_id(stranger.peer), addresses=(from_text(address),)))
            with pytest.raises(PeerUnreachable, match="peer"):
                await node.open(parse_peer_id(stranger.peer), ECHO, timeout_s=TIMEOUT_S)

    run(story())


def test_it_refuses_us_when_it_dialled_another(run, way):
    async def story():
        async with way.opened() as node, way.opened() as another:
            wrong = address(node).replace(peer_id_text(node.peer_id), peer_id_text(another.peer_id))
            with pytest.raises(CommandFailed) as refusal:
                await way.other.call("dial", address=wrong)
            # @libp2p/tls does not say which.
            assert peer_id_text(another.peer_id) in refusal.value.message or refusal.value.message == "Unexpected Peer"
            await dialled(node, way)

    run(story())


# py-libp2p 0.8.1 ends no QUIC handshake over IPv6, with itself neither (test_judges).
@pytest.mark.parametrize("way", ["js-quic", "js-tcp", "py-tcp"], indirect=True)
def test_ipv6_in_both_directions(run, way):
    async def story():
        async with way.opened("::1") as node:
            node.learn(way.info("/ip6/"))
            assert await ask(node, way, ECHO) == [b"question"]
        async with way.opened("::1") as node:
            serve(node)
            assert (await way.other.call("echo", peer=await dialled(node, way), size=10))["same"]

    run(story())
