"""Sums by epoch, provider and model: to the unit, once a receipt, and the same after a restart."""

from __future__ import annotations

import asyncio

import pytest

from quiver.aggregator.usage import USAGE, Sums, UsageRow, summarise
from quiver.errors import UsageError
from quiver.values.frames import Refused
from tests.unit.aggregator.test_service import World, replace, tell


def test_sums_are_of_accepted_receipts_each_once():
    """The history's receipts are over 10, 20 and 30 credits, 3 prompt and 4 completion tokens each."""

    async def story(world):
        await world.ask(world.batch(1, 2), world.batch(1, 2), world.batch(2, 3))
        world.restart()
        await world.ask(world.batch(1, 3))
        provider = "0x" + world.history.provider.account.hex()
        sums = {"receipts": 3, "prompt_tokens": 9, "completion_tokens": 12, "credits": 60}
        epoch = world.clock.utc_ms() // world.runtime.params.epoch_ms
        assert summarise(world.store) == [UsageRow(epoch=epoch, provider=provider, model=bytes(32).hex(), **sums)]
        assert summarise(world.store, ["provider"]) == [UsageRow(provider=provider, **sums)]
        assert summarise(world.store, []) == [UsageRow(**sums)]

    tell(story)


def test_a_refused_batch_counts_nothing():
    async def story(world):
        (answer,) = await world.ask(replace(world.batch(1, 2), receipts=world.history.receipts[1:2]))
        assert isinstance(answer, Refused)
        assert summarise(world.store) == []

    tell(story)


def test_epochs_add_up_and_closed_ones_are_not_kept_in_memory():
    async def story(world):
        runner = asyncio.get_running_loop().create_task(world.service.run())
        await world.ask(world.batch(1, 1))
        await world.clock.sleep(12)
        await world.ask(world.batch(2, 3))
        assert len(world.service.usage) == 1
        assert [row.credits for row in summarise(world.store, ["epoch"])] == [10, 50]
        assert [row.credits for row in summarise(world.store, ["model"])] == [60]
        runner.cancel()

    tell(story)


def test_an_unknown_column_is_refused_by_name():
    with pytest.raises(UsageError, match="'day': it is one of provider, model, epoch"):
        summarise(World().store, ["day"])


def test_a_row_is_small():
    """Bytes on the disk, keys aside: what 720 epochs of a thousand providers cost can be told from it."""

    async def story(world):
        await world.ask(world.batch(1, 3))
        ((key, row),) = world.store.scan(USAGE)
        assert len(key) == 60 and len(row) < 80
        assert Sums().plus(Sums(credits=2)) == Sums(credits=2)

    tell(story)
