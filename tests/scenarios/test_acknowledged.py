"""Each signature of a payer is in the trace once, whenever its connection ends."""

from __future__ import annotations

import pytest

from quiver import trace
from quiver.receipts.log import PayerLog
from tests.scenarios.stage import MODEL, Stage

# The gateway signs 0.25 s after a receipt; its disk takes 2 ms.
FSYNC_S = 0.002


def said(stage):
    return [(event.seq, event.cum) for event in stage.events.of(trace.ReceiptAcknowledged)]


@pytest.mark.parametrize("late_s", [-FSYNC_S, 0.0, FSYNC_S / 2, FSYNC_S, 2 * FSYNC_S])
def test_a_link_that_ends_around_the_commit_of_a_signature(late_s):
    """Before the signature, as it is made, while the disk writes it, as it is durable, and later."""

    async def story(stage):
        link, channel = stage.link(), stage.link().channel
        await stage.ask()
        while not channel.unsigned:
            await stage.clock.sleep(FSYNC_S / 4)
        while channel.unsigned and late_s >= 0:
            # To the moment of the signature, which is in the log before it is on the disk.
            await stage.clock.sleep(FSYNC_S / 100)
        await stage.clock.sleep(max(late_s, 0.0))
        link._stream.reset(0)
        await stage.clock.sleep(1.0)
        assert not link.up
        kept = PayerLog.load(stage.gateway.store, channel.log.terms)
        assert kept.last == channel.log.last and kept.last.seq == channel.log.head.seq
        assert said(stage) == [(event.seq, event.cum) for event in stage.events.of(trace.ReceiptIssued)][-1:]
        # The provider hears of it with the next connection, and nobody signs for the same again.
        await stage.gateway.service.pool.prepare(MODEL)
        await stage.clock.sleep(1.0)
        assert stage.channel().exposure == 0 and len(said(stage)) == 1

    Stage().play(story)


def test_the_next_link_begins_where_the_last_signature_left_the_channel():
    """Dialled at once, while the disk still writes: it reads what was signed, and does not sign for it again."""

    async def story(stage):
        old, channel = stage.link(), stage.link().channel
        await stage.ask()
        while channel.unsigned or not channel.log.last:
            await stage.clock.sleep(FSYNC_S / 100)
        old._stream.reset(0)
        service = stage.gateway.service
        while service.purse.link(old.peer) is not None:
            await stage.clock.sleep(FSYNC_S / 100)
        await service.pool.connect(service.table.offer(old.peer, MODEL, stage.clock.now()))
        assert stage.link().channel.log.head == channel.log.head
        await stage.clock.sleep(1.0)
        assert len(said(stage)) == 1

    Stage().play(story)
