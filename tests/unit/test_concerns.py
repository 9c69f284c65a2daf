"""What an operator has to look after outlives the process that noticed it, within bounds, and ends when it is over."""

from __future__ import annotations

from types import SimpleNamespace

from quiver.concerns import KEPT_MAX, TABLE, TAKEN_OVER_S, TEXT_MAX, Concerns, read_concerns
from quiver.errors import Unavailable
from quiver.runtime import Nursery
from quiver.trace import SettlementWarned
from sim.clock import EPOCH_MS, SimClock
from sim.loop import Environment
from sim.store import MemoryStore


class Desk:
    """One node's store over its lives, in virtual time; `events` are of all of them."""

    def __init__(self):
        self.env, self.store, self.events = Environment(), MemoryStore(), []
        self.clock = SimClock(self.env)
        self.runtime = SimpleNamespace(
            store=self.store, clock=self.clock, trace=SimpleNamespace(emit=self.events.append),
            signer=SimpleNamespace(peer_id=b"p"),
        )  # fmt: skip

    def live(self, story):
        """One life: `story(concerns)` while they are kept."""

        async def flow():
            concerns = Concerns(self.runtime)
            async with Nursery() as nursery:
                nursery.start(concerns.run())
                await story(concerns)
                await self.clock.sleep(1.0)
                nursery.cancel()

        self.env.run_coroutine(flow())
        return read_concerns(self.store)


def test_a_concern_is_kept_with_its_beginning_and_goes_when_it_ends():
    desk = Desk()

    async def begins(concerns):
        await desk.clock.sleep(5.0)
        concerns.warn("ledger", "the ledger is away", "look after it")
        await desk.clock.sleep(5.0)
        concerns.warn("ledger", "the ledger is away: refused", "look after it")

    (held,) = desk.live(begins).concerns
    assert (held.detail, held.fix, held.since_ms) == ("the ledger is away: refused", "look after it", EPOCH_MS + 5_000)
    assert [event.detail for event in desk.events] == ["the ledger is away: look after it", held.text]

    async def ends(concerns):
        assert concerns.health == held.text
        concerns.clear("ledger")

    assert desk.live(ends).concerns == [] and desk.store.get(TABLE, b"held") is None


def test_what_a_life_before_was_concerned_about_is_said_again_once_it_is_found_again_with_its_beginning():
    desk = Desk()

    async def warn(concerns):
        concerns.warn("ledger", "away", "look")
        concerns.warn("ledger", "away", "look")
        await desk.clock.sleep(60.0)

    desk.live(warn)
    (held,) = desk.live(warn).concerns
    assert held.since_ms == EPOCH_MS and len([one for one in desk.events if isinstance(one, SettlementWarned)]) == 2


def test_what_is_not_found_again_within_an_hour_has_ended():
    desk = Desk()

    async def warn(concerns):
        concerns.warn("old", "a", "b")
        concerns.warn("still", "a", "b")

    desk.live(warn)

    async def wait(concerns):
        concerns.warn("still", "a", "b")
        await desk.clock.sleep(TAKEN_OVER_S - 1.0)
        assert set(concerns.by_subject) == {"old", "still"}
        await desk.clock.sleep(2.0)

    assert [one.subject for one in desk.live(wait).concerns] == ["still"]


def test_what_is_kept_is_bounded_in_number_and_in_length():
    desk = Desk()

    async def warn(concerns):
        for number in range(KEPT_MAX + 3):
            concerns.warn(f"claim {number}", "x" * 5_000, "y" * 5_000)

    held = desk.live(warn)
    assert [one.subject for one in held.concerns] == [f"claim {number}" for number in range(KEPT_MAX)]
    assert held.more == 3 and {len(one.detail) for one in held.concerns} == {len(held.concerns[0].fix)} == {TEXT_MAX}


def test_a_store_that_fails_ends_nothing():
    desk = Desk()

    async def fail(batch):
        raise Unavailable("the disk is full")

    async def warn(concerns):
        commit, desk.store.commit = desk.store.commit, fail
        concerns.warn("a", "b", "c")
        await desk.clock.sleep(1.0)
        desk.store.commit = commit
        concerns.warn("d", "e", "f")

    assert [one.subject for one in desk.live(warn).concerns] == ["a", "d"]
