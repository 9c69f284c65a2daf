"""Who was silent for long while others wait for its place is asked for a sign of life."""

import math

from quiver.dht.distance import KEYS
from quiver.dht.kbucket import KBucket
from quiver.dht.routing_table import RoutingTable
from quiver.ids import PeerId
from quiver.params import Params
from quiver.runtime import Nursery
from tests.unit.dht.world import World, peer

K = 3


def seen(bucket, number):
    return bucket.on_seen(KEYS[peer(number).peer_id], peer(number), K)


def test_the_head_is_doubted_once_it_was_silent_for_the_whole_time():
    bucket = KBucket()
    for number in range(K):
        seen(bucket, number)
    assert not seen(bucket, 9)
    assert bucket.doubtful(100.0, 10.0) is None
    seen(bucket, 0)
    assert bucket.doubtful(109.0, 10.0) is None
    # 1 and 2 said nothing since t = 100; 0 did.
    assert bucket.doubtful(110.0, 10.0) == peer(1)
    seen(bucket, 1)
    assert bucket.doubtful(111.0, 10.0) == peer(2)
    seen(bucket, 2)
    assert bucket.doubtful(112.0, 10.0) is None
    assert bucket.doubtful(121.0, 10.0) is None
    assert bucket.doubtful(122.0, 10.0) == peer(0)
    bucket.validate(K)


def test_a_table_names_nobody_without_a_newcomer_that_waits():
    table = RoutingTable(PeerId(b"me"), 1, silence_s=10.0)
    bucket_of = {}
    for number in range(40):
        index = 256 - (table.own_key ^ KEYS[peer(number).peer_id]).bit_length()
        bucket_of.setdefault(index, []).append(number)
    old, new = next(numbers for numbers in bucket_of.values() if len(numbers) > 1)[:2]
    assert table.on_seen(peer(old), 0.0) is None
    assert table.on_seen(peer(new), 0.0) is None
    assert table.on_seen(peer(old), 5.0) is None
    # Seen at 5.0, marked at 10.0 by the newcomer, and silent since.
    assert table.on_seen(peer(new), 10.0) is None
    assert table.on_seen(peer(new), 19.9) is None
    assert table.on_seen(peer(new), 20.0) == peer(old)
    assert RoutingTable(PeerId(b"me"), 1).silence_s == math.inf


def test_a_dead_head_is_replaced_by_the_newcomer_and_a_live_one_is_kept():
    """k 3, refresh 10 s, rpc timeout 1 s: a full bucket, whose head dies without anybody asking for it."""
    world = World(40, params=Params.minimal())
    service = world.services[0]
    shallow = [number for number in range(1, 40) if (KEYS[world.info(number).peer_id] ^ service.table.own_key) >> 255]
    residents, newcomers = shallow[:3], shallow[3:5]

    async def story():
        for number in residents:
            service.table.on_seen(world.info(number), 0.0)
        async with Nursery() as nursery:
            running = nursery.start(service.run())
            await world.clock.sleep(0.1)
            world.transports[residents[0]].crash()
            service.observe(world.info(newcomers[0]))
            # The refresh would find it as well: this is faster than any refresh.
            service.table.buckets[0].marked_s = -100.0
            service.observe(world.info(newcomers[1]))
            await world.clock.sleep(2.0)
            running.cancel()
        assert world.info(residents[0]).peer_id not in service.table
        assert world.info(newcomers[1]).peer_id in service.table
        assert all(world.info(number).peer_id in service.table for number in residents[1:])

    world.run(story)


def test_nobody_is_asked_while_the_service_does_not_run():
    world = World(3)
    world.services[0]._on_doubt(world.info(1))
    assert world.trace.frames == 0 and not world.services[0]._checking
