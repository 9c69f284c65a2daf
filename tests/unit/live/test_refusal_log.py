"""Refusals in the log: what is new, by name, once a period and at the end."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter

from quiver.live.log import JsonLines
from quiver.live.refusal_log import RefusalLog
from quiver.quic.limits import Refusal


def test_what_is_new_is_said_once_a_period_and_at_the_end(caplog):
    refused = Counter()

    async def main():
        log = RefusalLog(refused, period_s=0.02)
        await asyncio.sleep(0.05)
        assert not caplog.records
        refused.update([Refusal.WASTE, Refusal.RPC_RATE, Refusal.WASTE])
        await asyncio.sleep(0.05)
        assert len(caplog.records) == 1
        refused.update([Refusal.WASTE])
        log.close()
        log.close()
        await asyncio.sleep(0.05)

    with caplog.at_level(logging.INFO):
        asyncio.run(main())
    lines = [json.loads(JsonLines().format(record)) for record in caplog.records]
    assert [line["message"] for line in lines] == ["refused to peers"] * 2
    assert (lines[0]["waste"], lines[0]["rpc_rate"]) == (2, 1)
    assert lines[1]["waste"] == 1 and "rpc_rate" not in lines[1]
