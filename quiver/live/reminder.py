"""What an operator still has to look after, said again in the log: a line of last week is read by nobody."""

from __future__ import annotations

import logging
from collections.abc import Callable

from quiver.live.log import note
from quiver.ports import Clock

REMIND_S = 3600.0

_log = logging.getLogger("quiver.node")


async def remind(health: Callable[[], str | None], clock: Clock) -> None:
    """Once an hour, as long as `health` has something to say. When it begins, its own trace event is a warning at once."""
    while True:
        await clock.sleep(REMIND_S)
        if (concern := health()) is not None:
            note(_log, logging.WARNING, "still to be looked after", concern=concern)
