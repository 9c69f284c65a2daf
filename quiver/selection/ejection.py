"""When a provider is left alone for a while: the health filter, the same before every policy.

Constants of Envoy's outlier detection (outlier_detection.proto). Its statistical rules are left out: at a gateway's
few requests a provider they would never fire.
"""

from __future__ import annotations

import math

FAILURES_TO_EJECT = 5
EJECT_S = 30.0
"First ejection; the n-th in a row lasts n times as long, at most `EJECT_S_MAX`."
EJECT_S_MAX = 300.0
"Also how long after its end an ejection still counts as one in the row."


class Ejection:
    """Health of one provider as this gateway saw it. Busy answers never come here: they are load."""

    __slots__ = ("_failures", "_ejections", "until_s")

    def __init__(self) -> None:
        self._failures = 0
        self._ejections = 0
        self.until_s = -math.inf
        "Ejected while `now` is less."

    def on_success(self) -> None:
        """The row of failures is broken; a running ejection still lasts to its end."""
        self._failures = 0

    def on_failure(self, *, now: float) -> None:
        """The fifth failure in a row ejects."""
        if now < self.until_s:
            return  # Attempts that were open at the ejection fail late; they are the same outage.
        self._failures += 1
        if self._failures < FAILURES_TO_EJECT:
            return
        if now >= self.forgotten_s:
            self._ejections = 0
        self._ejections += 1
        self._failures = 0
        self.until_s = now + min(EJECT_S * self._ejections, EJECT_S_MAX)

    @property
    def forgotten_s(self) -> float:
        """From then on nothing is held against the peer."""
        return self.until_s + EJECT_S_MAX
