"""PUT_VALUE and GET_VALUE between nodes: quorum, entry correction, refusal. `Params.minimal()`: k 3."""

import msgspec
import pytest

from quiver.dht.service import DhtService
from quiver.dht.value_store import VALUE_LIFETIME_S, VALUE_REPUBLISH_S
from quiver.errors import StreamReset, UsageError, WireCode
from quiver.params import Params
from quiver.runtime import Nursery
from quiver.values.kad import KadMessage, KadType, Record
from quiver.wire.protocols import KAD
from tests.unit.dht.test_value_store import KEY, Highest
from tests.unit.dht.world import World

VALIDATORS = {"count": Highest()}


class ValueWorld(World):
    def add(self) -> DhtService:
        return super().add(validators=VALIDATORS)


def holders(world, key=KEY):
    held = {
        number: service._answers.values.get(key, world.clock.now()) for number, service in enumerate(world.services)
    }
    return {number: record.value for number, record in held.items() if record is not None}


def test_a_value_is_held_by_the_k_nearest_and_read_by_everybody():
    world = ValueWorld(20)

    async def story():
        await world.join_all()
        assert await world.services[5].put_value(KEY, b"7") == 3
        for number in (0, 5, 19):
            assert await world.services[number].get_value(KEY) == b"7"
        assert await world.services[1].get_value(b"/count/other") is None

    world.run(story)
    assert set(holders(world).values()) == {b"7"}
    record = next(r for s in world.services if (r := s._answers.values.get(KEY, 0.0)) and r.time_received)
    assert record.time_received.startswith("2023-11-14T22:13:2")


def test_the_best_value_wins_and_those_behind_are_corrected():
    world = ValueWorld(20)

    async def story():
        await world.join_all()
        await world.services[5].put_value(KEY, b"7")
        nearest = await world.services[0].find_node(KEY)
        numbers = {world.info(number).peer_id: number for number in range(20)}
        behind = [numbers[info.peer_id] for info in nearest][1:]
        for number in behind:
            world.services[number]._answers.values._held.clear()
        world.services[behind[0]]._answers.values.put(Record(key=KEY, value=b"2"), world.clock.now())
        assert await world.services[11].get_value(KEY, quorum=99) == b"7"
        return behind

    behind = world.run(story)
    assert [holders(world)[number] for number in behind] == [b"7", b"7"]


def test_an_answer_that_is_not_valid_counts_for_nothing():
    world = ValueWorld(3)

    async def story():
        await world.join_all()
        for liar, record in ((1, Record(key=KEY, value=b"junk")), (2, Record(key=b"/count/b", value=b"999"))):
            answer = KadMessage(type=KadType.GET_VALUE, key=KEY, record=record)
            world.transports[liar].answer(KAD, lambda asker, message, answer=answer: answer)
        assert await world.services[0].get_value(KEY) is None

    world.run(story)


def test_a_quorum_ends_the_search_early():
    world = ValueWorld(30)

    async def story():
        await world.join_all()
        await world.services[5].put_value(KEY, b"7")
        asked = []
        for quorum in (1, 99):
            world.events.clear()
            assert await world.services[12].get_value(KEY, quorum=quorum) == b"7"
            asked.append(world.events[0].asked)
        assert asked[0] < asked[1]

    world.run(story)


def test_a_value_is_put_again_until_it_is_dropped():
    rare = msgspec.structs.replace(Params.minimal(), bucket_refresh_s=7200.0, republish_s=3600.0, lease_s=7200.0)
    world = ValueWorld(6, params=rare)

    async def story():
        await world.join_all()
        owner = world.services[2]
        async with Nursery() as nursery:
            running = nursery.start(owner.run())
            await owner.put_value(KEY, b"7")
            await world.clock.sleep(VALUE_LIFETIME_S + 100.0)
            assert await world.services[4].get_value(KEY) == b"7"
            owner.drop_value(KEY)
            await world.clock.sleep(VALUE_REPUBLISH_S)
            running.cancel()
        # The reader's correction of 100 s after the second day is the last put there was.
        await world.clock.sleep(VALUE_LIFETIME_S)
        assert await world.services[4].get_value(KEY) is None

    world.run(story)


def test_unknown_namespaces_and_bad_values_are_our_callers_fault_or_the_peers():
    world = ValueWorld(2)

    async def story():
        service, asker = world.services[0], world.transports[1]
        with pytest.raises(UsageError, match="no validator"):
            await service.put_value(b"/other/a", b"1")
        with pytest.raises(UsageError, match="no validator"):
            await service.get_value(b"/other/a")
        with pytest.raises(UsageError, match="invalid literal"):
            await service.put_value(KEY, b"one")
        for message in (
            KadMessage(type=KadType.PUT_VALUE, key=KEY, record=Record(key=KEY, value=b"one")),
            KadMessage(type=KadType.GET_VALUE, key=b"/other/a"),
        ):
            with pytest.raises(StreamReset) as error:
                await asker.rpc(world.info(0).peer_id, KAD, message, timeout_s=1.0)
            assert error.value.code == WireCode.PROTOCOL_VIOLATION
        message = KadMessage(type=KadType.PUT_VALUE, key=KEY, record=Record(key=KEY, value=b"1"))
        assert await asker.rpc(world.info(0).peer_id, KAD, message, timeout_s=1.0) == message

    world.run(story)
    assert holders(world) == {0: b"1"}
