"""A world as a whole: rounds that overlap, labels of what was measured, and what it refuses to build."""

from __future__ import annotations

from quiver.runtime import Nursery
from sim import Scenario, World

TOUR = Scenario.named("tour").replace(
    providers=5, duration_s=10.0, topology="synthetic", workload="azure-conv-synthetic"
)


class Impatient(World):
    """Every provider is told to settle again and again, twice at the same moment, beside its own rounds."""

    async def _settle(self, clock):
        for _ in range(80):  # a second each: past the end of the epoch
            async with Nursery() as nursery:
                for node in (*self.providers, *self.providers):
                    nursery.start(node.settler.settle())
            await clock.sleep(1.0)
        await super()._settle(clock)


def test_settlement_rounds_that_overlap_share_no_work():
    summary = Impatient(TOUR, seed=1).run(progress=False).summary
    assert summary["credits_owed"] == summary["credits_paid"] > 0
    assert summary["receipts"] == summary["receipts_ingested"]
