"""Totals by day and model: exact, durable, bounded."""

from __future__ import annotations

import msgspec

from quiver.ids import ModelId
from quiver.receipts import totals
from quiver.receipts.log import PayerLog
from quiver.receipts.totals import DAY_MS, ChannelTotals, Totals
from sim.loop import Environment
from sim.store import MemoryStore
from tests.unit.receipts.histories import CHANNEL, History

ONE, TWO = ModelId(b"\x01" * 32), ModelId(b"\x02" * 32)


def body(day, model, amount):
    made = History(amounts=(amount,)).receipts[0].body
    return msgspec.structs.replace(made, issued_ms=day * DAY_MS + 5, model=model)


def write(store, batch):
    Environment().run_coroutine(store.commit(batch))


def test_days_and_models_are_kept_apart_and_come_back():
    store, kept = MemoryStore(fsync_s=0), ChannelTotals("t", CHANNEL)
    for day, model, amount in ((100, ONE, 5), (100, TWO, 7), (100, ONE, 6), (101, ONE, 1)):
        write(store, kept.on_receipt(body(day, model, amount)))
    expected = {
        (100, ONE): Totals(receipts=2, prompt_tokens=6, completion_tokens=8, amount=11),
        (100, TWO): Totals(receipts=1, prompt_tokens=3, completion_tokens=4, amount=7),
        (101, ONE): Totals(receipts=1, prompt_tokens=3, completion_tokens=4, amount=1),
    }
    assert kept.cells == ChannelTotals.load(store, "t", CHANNEL).cells == expected


def test_the_oldest_days_become_one_row_a_model(monkeypatch):
    monkeypatch.setattr(totals, "DAYS_MAX", 2)
    store, kept = MemoryStore(fsync_s=0), ChannelTotals("t", CHANNEL)
    for day in (100, 101, 102, 103):
        for model in (ONE, TWO):
            write(store, kept.on_receipt(body(day, model, day)))
    amounts = {cell: sums.amount for cell, sums in ChannelTotals.load(store, "t", CHANNEL).cells.items()}
    assert amounts == {cell: sums.amount for cell, sums in kept.cells.items()}
    assert amounts == {(day, model): day or 201 for day in (0, 102, 103) for model in (ONE, TWO)}


def test_a_payer_counts_what_it_signed_for_once_though_the_rest_comes_again():
    history, store = History(amounts=(10, 20, 30)), MemoryStore(fsync_s=0)
    log = PayerLog.load(store, history.terms)
    for receipt in history.receipts:
        log.on_receipt(receipt)
    write(store, log.on_signed(history.acknowledge(2)))
    again = PayerLog.load(store, history.terms)
    again.on_receipt(history.receipts[2])
    write(store, again.on_signed(history.acknowledge(3)))
    (cell,) = PayerLog.load(store, history.terms).totals.cells.values()
    assert (cell.receipts, cell.amount) == (3, 60)
