"""What is not looked after is said again."""

from __future__ import annotations

import asyncio
import logging

import pytest

from quiver.live.reminder import REMIND_S, remind


class Hours:
    """A clock that lets `left` hours pass."""

    def __init__(self, left):
        self.left = left

    async def sleep(self, seconds):
        assert seconds == REMIND_S == 3_600
        if not self.left:
            raise asyncio.CancelledError
        self.left -= 1


def test_a_concern_is_said_each_hour_while_it_holds(caplog):
    told = iter([None, "deposit more", "deposit more", None])
    with caplog.at_level(logging.INFO), pytest.raises(asyncio.CancelledError):
        asyncio.run(remind(lambda: next(told), Hours(4)))
    lines = [record for record in caplog.records if record.name == "quiver.node"]
    assert [(line.levelname, line.quiver_fields) for line in lines] == [("WARNING", {"concern": "deposit more"})] * 2
