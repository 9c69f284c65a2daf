"""Two sides that know nothing of each other meet through whom one node joined by. `Params.minimal()`: refresh 10 s."""

from quiver.runtime import Nursery
from tests.unit.dht.world import World


def test_sides_without_a_common_peer_become_one_network():
    world = World(12)
    one, two = range(6), range(6, 12)

    def forget(side, other):
        for number in side:
            for stranger in other:
                # As often as the other side could stand in the bucket or wait for a place in it.
                for _ in range(6):
                    world.services[number].table.on_failed(world.info(stranger).peer_id)

    async def story():
        await world.join_all()
        # The last questions of finished lookups still come back.
        await world.clock.sleep(2.0)
        forget(one, two)
        forget(two, one)
        known = {info.peer_id for number in one for info in world.services[number].table}
        assert not known & {world.info(number).peer_id for number in two}
        assert (await world.services[0].find_node(world.info(11).peer_id))[0] != world.info(11)
        async with Nursery() as nursery:
            for service in world.services:
                nursery.start(service.run())
            await world.clock.sleep(30.0)
            for source, target in ((0, 11), (5, 6), (11, 0), (6, 5)):
                found = await world.services[source].find_node(world.info(target).peer_id)
                assert found[0] == world.info(target)
            nursery.cancel()

    world.run(story)
