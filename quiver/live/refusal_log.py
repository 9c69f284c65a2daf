"""What was refused to peers, for the operator: a line a minute with what is new, and nothing where nothing is."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping

from quiver.live.log import note
from quiver.quic.limits import Refusal

PERIOD_S = 60.0
_log = logging.getLogger(__name__)


class RefusalLog:
    """Watches the counts of a host (docs/protocol.md has their names) on the running loop, until `close`."""

    def __init__(self, refused: Mapping[Refusal, int], *, period_s: float = PERIOD_S) -> None:
        self._refused = refused
        self._period_s = period_s
        self._told: Counter[Refusal] = Counter()
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(period_s, self._turn)

    def _turn(self) -> None:
        self._tell()
        self._timer = self._loop.call_later(self._period_s, self._turn)

    def _tell(self) -> None:
        now = Counter(self._refused)
        new = now - self._told
        if new:
            note(_log, logging.INFO, "refused to peers", **{kind.value: count for kind, count in sorted(new.items())})
            self._told = now

    def close(self) -> None:
        """Say what is left."""
        self._timer.cancel()
        self._tell()
