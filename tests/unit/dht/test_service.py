"""The DHT service on the simulated transport. `Params.minimal()`: k 3, alpha 2, lease 10 s, republish 5 s, rpc timeout 1 s."""

import pytest

from quiver.dht import service as service_module
from quiver.dht.distance import KEYS
from quiver.errors import StreamReset, Unavailable, UsageError, WireCode
from quiver.ids import PeerId
from quiver.params import Params
from quiver.runtime import Nursery
from quiver.trace import LookupFinished
from quiver.values.kad import KadMessage, KadType, Record
from quiver.values.peer import PeerInfo
from quiver.wire.protocols import KAD
from tests.unit.dht.world import World, peer


def test_everyone_finds_everyone_after_joining():
    world = World(40)

    async def story():
        await world.join_all()
        for number in range(40):
            found = await world.services[(number * 7 + 3) % 40].find_node(world.info(number).peer_id)
            if (number * 7 + 3) % 40 != number:
                assert found[0] == world.info(number)

    world.run(story)
    for service in world.services:
        service.table.validate()
        service.records.validate()


def test_a_key_that_is_no_peer_leads_to_the_k_nearest():
    world = World(25)

    async def story():
        await world.join_all()
        found = await world.services[4].find_node(b"nobody")
        others = [world.info(number) for number in range(25) if number != 4]
        assert found == sorted(others, key=lambda info: KEYS[info.peer_id] ^ KEYS[b"nobody"])[:3]

    world.run(story)


def test_a_provider_is_found_by_everyone_and_also_by_itself():
    world = World(20)

    async def story():
        await world.join_all()
        assert await world.services[5].provide(b"model") == 3
        for number in (0, 5, 11, 19):
            assert await world.services[number].find_providers(b"model") == [world.info(5)]
        assert await world.services[0].find_providers(b"other model") == []

    world.run(story)


def test_a_record_ends_with_its_lease_unless_it_is_renewed():
    world = World(12)

    async def story():
        await world.join_all()
        async with Nursery() as nursery:
            running = nursery.start(world.services[3].run())
            await world.services[3].provide(b"kept")
            await world.services[4].provide(b"left")
            await world.clock.sleep(25.0)
            assert await world.services[9].find_providers(b"kept") == [world.info(3)]
            assert await world.services[9].find_providers(b"left") == []
            world.services[3].withdraw(b"kept")
            await world.clock.sleep(16.0)
            assert await world.services[9].find_providers(b"kept") == []
            running.cancel()

    world.run(story)


def test_announcing_many_keys_slowly_lets_no_lease_run_out(monkeypatch):
    """Rounds are counted from their starts, several keys at a time: announcing one by one, with the whole period after it, took longer
    than a lease (found on forty live nodes on a busy machine)."""
    world = World(8)
    announce, took_s = service_module.DhtService._announce, 0.5

    async def slowly(service, key):
        await world.clock.sleep(took_s)
        return await announce(service, key)

    async def story():
        await world.join_all()
        monkeypatch.setattr(service_module.DhtService, "_announce", slowly)
        keys = [b"key %d" % number for number in range(40)]
        async with Nursery() as nursery:
            running = nursery.start(world.services[3].run())
            for key in keys:
                await announce(world.services[3], key)
                world.services[3]._provided[key] = None
            for _ in range(30):
                await world.clock.sleep(1.0)
                for key in keys:
                    assert await world.services[6].find_providers(key) == [world.info(3)]
            running.cancel()

    world.run(story)


def test_silent_peers_are_skipped_and_forgotten():
    world = World(20)

    async def story():
        await world.join_all()
        dead = [1, 4, 6, 13]
        for number in dead:
            world.transports[number].crash()
        for number in range(20):
            if number not in dead and number != 2:
                assert (await world.services[2].find_node(world.info(number).peer_id))[0] == world.info(number)
        assert world.info(4) not in await world.services[2].find_node(world.info(4).peer_id)
        assert world.info(4).peer_id not in world.services[2].table

    world.run(story)


def test_joining_through_nobody_who_answers_says_so():
    world = World(3)

    async def story():
        world.transports[1].crash()
        with pytest.raises(Unavailable, match="none of 1 bootstrap peers answered"):
            await world.services[0].bootstrap([world.info(1)])
        await world.services[0].bootstrap([])
        await world.services[0].bootstrap([world.info(0)])

    world.run(story)


def test_a_node_that_lost_everyone_comes_back_through_its_bootstrap_peers():
    world = World(4)

    async def story():
        await world.join_all()
        service = world.services[3]
        for info in list(service.table) * 5:
            service.table.on_failed(info.peer_id)
        assert len(service.table) == 0
        async with Nursery() as nursery:
            running = nursery.start(service.run())
            await world.clock.sleep(13.0)
            assert len(service.table) >= 2
            running.cancel()

    world.run(story)


def test_only_a_peer_itself_may_announce_itself():
    world = World(2)

    async def story():
        asker = world.transports[1]
        for providers in ((), (world.info(0),), (peer(99), world.info(0))):
            with pytest.raises(StreamReset):
                await ask(asker, KadMessage(type=KadType.ADD_PROVIDER, key=b"model", providers=providers))
        assert len(world.services[0].records) == 0
        answer = await ask(
            asker, KadMessage(type=KadType.ADD_PROVIDER, key=b"model", providers=(world.info(0), world.info(1)))
        )
        assert answer == KadMessage(type=KadType.ADD_PROVIDER, key=b"model")
        answer = await ask(asker, KadMessage(type=KadType.GET_PROVIDERS, key=b"model"))
        assert answer.providers == (world.info(1),)

    async def ask(asker, message):
        return await asker.rpc(world.info(0).peer_id, KAD, message, timeout_s=1.0)

    world.run(story)


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (KadMessage(type=KadType.FIND_NODE), WireCode.MALFORMED),
        (KadMessage(type=KadType.GET_PROVIDERS, key=b"x" * 81), WireCode.MALFORMED),
        (KadMessage(type=KadType.PUT_VALUE, key=b"x"), WireCode.MALFORMED),
        (KadMessage(type=KadType.PUT_VALUE, key=b"x", record=Record(key=b"y", value=b"")), WireCode.MALFORMED),
        (
            KadMessage(type=KadType.PUT_VALUE, key=b"/pk/x", record=Record(key=b"/pk/x", value=b"")),
            WireCode.PROTOCOL_VIOLATION,
        ),
        (KadMessage(type=KadType.GET_VALUE, key=b"x"), WireCode.PROTOCOL_VIOLATION),
    ],
)
def test_what_is_not_served_resets_the_rpc_and_changes_nothing(message, code):
    world = World(2)

    async def story():
        with pytest.raises(StreamReset) as error:
            await world.transports[1].rpc(world.info(0).peer_id, KAD, message, timeout_s=1.0)
        assert error.value.code == code
        assert len(world.services[0].table) == 0

    world.run(story)


def test_ping_is_echoed():
    world = World(2)

    async def story():
        ping = KadMessage(type=KadType.PING)
        assert await world.transports[1].rpc(world.info(0).peer_id, KAD, ping, timeout_s=1.0) == ping

    world.run(story)


def test_a_full_record_store_refuses_with_a_resource_limit():
    world = World(2)

    async def story():
        for number in range(17):
            message = KadMessage(type=KadType.ADD_PROVIDER, key=b"%d" % number, providers=(world.info(1),))
            if number < 16:
                await world.transports[1].rpc(world.info(0).peer_id, KAD, message, timeout_s=1.0)
            else:
                with pytest.raises(StreamReset) as error:
                    await world.transports[1].rpc(world.info(0).peer_id, KAD, message, timeout_s=1.0)
                assert error.value.code == WireCode.RESOURCE_LIMIT

    world.run(story)


def test_an_answer_names_the_answerer_only_for_its_own_id_and_the_asker_only_for_theirs():
    world = World(3)
    service, (me, one, two) = world.services[0], [world.info(number) for number in range(3)]

    def closer(asker, key):
        question = KadMessage(type=KadType.FIND_NODE, key=key, providers=(asker,))
        return service.on_question(asker.peer_id, question).closer

    assert closer(one, b"key") == ()
    assert closer(two, b"key") == (one,)
    assert closer(one, me.peer_id) == (me, two)
    assert {info.peer_id for info in closer(one, one.peer_id)} == {one.peer_id, two.peer_id}


def test_providing_has_a_limit(monkeypatch):
    monkeypatch.setattr(service_module, "PROVIDED_MAX", 2)
    world = World(2)

    async def story():
        service = world.services[0]
        for key in (b"a", b"b", b"a"):
            assert await service.provide(key) == 0
        with pytest.raises(UsageError, match="at most 2 keys"):
            await service.provide(b"c")
        service.withdraw(b"a")
        await service.provide(b"c")

    world.run(story)


def test_candidates_are_bounded_and_the_search_then_ends():
    world = World(1, params=Params.minimal())
    key = b"popular"

    async def story():
        service = world.services[0]
        world.add()
        liar = world.transports[1]
        crowd = tuple(PeerInfo(peer_id=PeerId(b"fake %d" % number)) for number in range(100))
        liar.answer(
            KAD, lambda asker, message: KadMessage(type=message.type, key=message.key, providers=crowd, closer=crowd)
        )
        service.table.on_seen(world.info(1), 0.0)
        found = await service.find_providers(key)
        # provider_peers_max = 4 of one answer are read; candidates_max = 8 in all.
        assert found == list(crowd[:4])

    world.run(story)


def test_lookups_are_traced_with_what_they_cost():
    world = World(10)

    async def story():
        await world.join_all()
        world.events.clear()
        await world.services[1].find_node(world.info(8).peer_id)
        await world.services[1].find_node(b"nobody")

    world.run(story)
    found, nobody = world.events
    assert isinstance(found, LookupFinished)
    assert (found.node, found.key, found.found) == (world.info(1).peer_id, world.info(8).peer_id, True)
    assert found.asked >= found.hops >= 1
    assert (nobody.found, nobody.key) == (False, b"nobody")


def test_with_addresses_a_newcomer_is_learned_from_its_own_questions():
    world = World(12, addressed=True)

    async def story():
        await world.join_all()
        found = await world.services[3].find_node(world.info(11).peer_id)
        assert found[0] == world.info(11)
        assert world.info(11) in world.transports[3].learned
        await world.services[3].provide(b"model")
        assert await world.services[7].find_providers(b"model") == [world.info(3)]
        for service in world.services:
            assert all(info.addresses for info in service.table)

    world.run(story)


def test_with_addresses_an_asker_without_any_is_answered_but_not_remembered():
    world = World(2, addressed=True)
    service = world.services[0]
    question = KadMessage(type=KadType.FIND_NODE, key=b"key", providers=(peer(1), world.info(0)))
    assert service.on_question(peer(1).peer_id, question).closer == ()
    assert len(service.table) == 0
    service.observe(world.info(1))
    assert list(service.table) == [world.info(1)]
    assert world.transports[0].learned == [world.info(1)]


def test_the_same_story_gives_the_same_digest():
    def digest():
        world = World(15)

        async def story():
            await world.join_all()
            await world.services[2].provide(b"model")
            await world.services[9].find_providers(b"model")

        world.run(story)
        return world.trace.digest()

    assert digest() == digest()
