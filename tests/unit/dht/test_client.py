"""A client asks and finds; it answers nobody and stands in nobody's table."""

import pytest

from quiver.errors import StreamReset, WireCode
from quiver.values.kad import KadMessage, KadType
from quiver.wire.protocols import KAD
from tests.unit.dht.world import World


@pytest.mark.parametrize("addressed", [False, True])
def test_a_client_uses_the_network_and_is_not_part_of_it(addressed):
    world = World(12, addressed=addressed)

    async def story():
        await world.join_all()
        client = world.add(server=False)
        me = world.info(12)
        await client.bootstrap([world.info(3)])
        await world.services[5].provide(b"model")
        assert await client.find_providers(b"model") == [world.info(5)]
        assert (await client.find_node(world.info(9).peer_id))[0] == world.info(9)
        assert await client.provide(b"of a client") == 3
        assert await world.services[2].find_providers(b"of a client") == [me]
        assert all(me.peer_id not in service.table for service in world.services)
        assert me not in await world.services[2].find_node(me.peer_id)
        with pytest.raises(StreamReset) as error:
            await world.transports[1].rpc(me.peer_id, KAD, KadMessage(type=KadType.PING), timeout_s=1.0)
        assert error.value.code == WireCode.NEGOTIATION_FAILED

    world.run(story)
