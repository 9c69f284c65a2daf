"""The memory of a whole node: what leases add up to, who is refused when it is used up, and that small things still go through."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from quiver.errors import StreamReset, WireCode
from quiver.quic.limits import Bound, Limits, NodeLimits, Quota, Refusal
from quiver.quic.memory import CHUNK_BYTES, Budget, Lease
from quiver.wire.framing import encode_frame
from tests.conformance.transport_suite import ECHO, OTHER, Note
from tests.unit.live.libp2p.tcp_pair import TcpPair
from tests.unit.quic.pair import Pair
from tests.unit.quic.test_endpoint import links, tell

KIB = 1024
# A pool of 1 MiB beside the reserves of ten connections.
SMALL = NodeLimits(
    connections=Bound(incoming=10, outgoing=10, total=10),
    memory_bytes=(1024 + 10 * 64) * KIB,
    memory_reserve_bytes=64 * KIB,
)


class Leases(RuleBasedStateMachine):
    """Connections hold more and less; what they hold together never exceeds what the node has, but for what was refused."""

    def __init__(self):
        super().__init__()
        self.quota = Quota(SMALL)
        self.budget = Budget(self.quota)
        self.held, self.leases = [0] * 5, []
        for number in range(5):
            self.leases.append(Lease(lambda number=number: self.held[number]))
            self.leases[-1].join(self.budget)

    @rule(who=st.integers(0, 4), size=st.one_of(st.integers(0, 2000), st.integers(0, 400 * KIB)))
    def take(self, who, size):
        self.held[who] += size
        if not self.leases[who].take(size):
            # Refused, so it is dropped. Not for nothing: a chunk more for everybody would not fit.
            assert sum(self.held) + 6 * CHUNK_BYTES > 1024 * KIB and self.held[who] > 64 * KIB
            self.held[who] -= size

    @rule(who=st.integers(0, 4), part=st.floats(0, 1))
    def free(self, who, part):
        self.held[who] = int(self.held[who] * part)

    @rule(who=st.integers(0, 4))
    def start_again(self, who):
        self.leases[who].leave()
        self.held[who] = 0
        self.leases[who] = Lease(lambda: self.held[who])
        self.leases[who].join(self.budget)

    @invariant()
    def the_sum_is_bounded(self):
        self.budget.validate()
        for held, lease in zip(self.held, self.leases, strict=True):
            assert held <= 64 * KIB + lease.from_pool
        assert sum(self.held) <= SMALL.memory_bytes


TestLeases = Leases.TestCase


def test_what_is_no_longer_held_is_given_back_when_somebody_needs_it():
    quota = Quota(SMALL)
    budget, held = Budget(quota), [0, 0]
    first, second = Lease(lambda: held[0]), Lease(lambda: held[1])
    first.join(budget), second.join(budget)
    held[0] = 1000 * KIB
    assert first.take(held[0])
    held[1] = 400 * KIB
    assert not second.take(held[1]) and quota.refused == {Refusal.NODE_MEMORY: 1}
    held[0] = 0
    # The look at everybody found what the first had been granted for later, so the next refusal looks again.
    assert second.take(0) and first.take(60 * KIB)
    budget.validate()


def test_everybody_is_looked_at_less_and_less_often_for_nothing():
    quota, looks = Quota(SMALL), []
    budget = Budget(quota)
    hog = Lease(lambda: looks.append(1) or 1000 * KIB)
    second = Lease(lambda: 400 * KIB)
    hog.join(budget), second.join(budget)
    assert hog.take(1000 * KIB)
    looks.clear()
    seen = []
    for _ in range(1024):
        assert not second.take(400 * KIB)
        seen.append(len(looks))
    # The first finds what the hog had been granted for later; the others nothing.
    assert [seen.index(number) + 1 for number in range(1, 13)] == [2**n for n in range(10)] + [768, 1024]


def shrink(node, pool_bytes):
    """All connections of `node`, now and later, share so little."""
    total = node.quota.limits.connections.total
    node.swarm.budget._pool_bytes = pool_bytes
    assert total


def hold(node):
    """Serve OTHER by a handler that reads nothing."""

    async def handler(stream):
        await asyncio.Event().wait()

    node.serve(OTHER, handler)


def test_a_peer_whose_unread_bytes_are_too_many_for_the_node_loses_its_largest_stream_and_others_are_served():
    async def story(net, a, b):
        hold(b)
        c = await net.node()
        net.meet(c, b)
        shrink(b, 100 * KIB)
        small, large = [await a.open(b.peer_id, OTHER, timeout_s=5) for _ in range(2)]
        await small.send(Note(number=1))
        for _ in range(20):
            await large.send(Note(number=2, text="x" * 10_000))
        await net.settle(2.0)
        with pytest.raises(StreamReset) as caught:
            await large.receive()
        assert caught.value.code == WireCode.RESOURCE_LIMIT and b.quota.refused[Refusal.NODE_MEMORY] >= 1
        (link,) = [link for link in links(b) if link.driver.peer_id == a.peer_id]
        assert not link.driver.is_closed and small._stream.read_code is None
        assert (await c.rpc(b.peer_id, ECHO, Note(number=3, text="y" * 30_000), timeout_s=5)).number == 3
        assert (await a.rpc(b.peer_id, ECHO, Note(number=4), timeout_s=5)).number == 4
        b.swarm.budget.validate()

    tell(story)


def test_many_connections_together_hold_no_more_than_the_node_has():
    async def story(net, a, b):
        hold(b)
        shrink(b, 300 * KIB)
        peers = [await net.node() for _ in range(7)]
        for peer in peers:
            net.meet(peer, b)

        async def push(peer):
            stream = await peer.open(b.peer_id, OTHER, timeout_s=5)
            try:
                for _ in range(24):
                    await stream.send(Note(number=1, text="x" * 10_000))
            except StreamReset as error:
                assert error.code == WireCode.RESOURCE_LIMIT

        await asyncio.gather(*(push(peer) for peer in peers))
        await net.settle(2.0)
        held = [link.driver._held_bytes() for link in links(b)]
        assert sum(held) <= 300 * KIB + 64 * KIB * len(held) and max(held) > 200 * KIB
        assert b.quota.refused[Refusal.NODE_MEMORY] >= 1
        b.swarm.budget.validate()
        for peer in peers:
            await peer.close()
        await net.settle(2.0)
        assert b.swarm.budget._pool_used == 0 and not b.swarm.budget._leases

    tell(story)


def test_writers_wait_and_rpcs_are_refused_while_the_node_has_no_memory_and_go_on_when_it_has():
    async def story(net, a, b):
        b.answer(OTHER, lambda peer, note: Note(number=note.number, text="x" * 60_000))
        await a.rpc(b.peer_id, ECHO, Note(number=0), timeout_s=5)
        shrink(b, 100 * KIB)
        answers = await asyncio.gather(
            *(a.rpc(b.peer_id, OTHER, Note(number=n), timeout_s=5) for n in range(10)), return_exceptions=True
        )
        refused = [answer for answer in answers if isinstance(answer, StreamReset)]
        assert 5 <= len(refused) < 10 and {error.code for error in refused} == {WireCode.RESOURCE_LIMIT}
        assert b.quota.refused[Refusal.NODE_MEMORY] >= len(refused)
        await net.settle(1.0)
        assert (await a.rpc(b.peer_id, OTHER, Note(number=3), timeout_s=5)).number == 3

    tell(story)


@pytest.mark.parametrize("make", [Pair, TcpPair])
def test_frames_without_bytes_cost_credit_so_that_nobody_sends_them_for_ever(make):
    pair = make(limits=Limits(stream_window_bytes=256 * KIB)).run()
    mine, theirs = pair.stream()
    for _ in range(200):
        if pair.client.may_write(mine):
            pair.client._write(mine.id, encode_frame(b"") * 10_000)
        pair.run(0.05)
    # A window of their cost, and one of the bytes that were under way.
    assert 8 * KIB <= len(theirs.frames) <= 256 * KIB * 33 // 32
    assert pair.server._held_bytes() <= 40 * 256 * KIB


def test_bytes_out_of_order_count_too():
    pair = Pair().run()
    mine, _ = pair.stream()
    sender = pair.quics[0]._streams[mine.id].sender
    # The first bytes of what follows never arrive.
    pair.client._write(mine.id, encode_frame(b"x" * 90_000))
    sender._pending.subtract(sender._buffer_start, sender._buffer_start + 1000)
    pair.run(0.3)
    assert pair.server._received_bytes_total() > 80_000


def test_a_connection_that_holds_too_much_outside_of_streams_is_closed():
    quota = Quota(SMALL)
    budget = Budget(quota)
    pair = Pair().run()
    pair.server.lease.join(budget)
    budget._pool_bytes = 0
    pair.server._received_bytes_total = lambda: 100 * KIB
    pair.server.lease.take(64 * KIB)
    pair.quics[0].send_ping(1)
    pair.run(0.5)
    assert pair.server.is_closed and pair.server.ending_reason == "no memory is left for what this connection holds"
