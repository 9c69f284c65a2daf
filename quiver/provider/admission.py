"""Admission by slots: how many requests run, how many wait, who was seen before. No I/O; callers pass the time."""

from __future__ import annotations

from collections import OrderedDict
from enum import StrEnum

from quiver.ids import ChannelId, RequestId

# Weight of the newest service time in the estimate of the queueing delay.
SERVICE_GAIN = 0.2
# Request ids remembered against replays; beyond it the oldest are forgotten, all of them past their deadline in practice.
SEEN_MAX = 65_536


class SlotVerdict(StrEnum):
    """What admission says of a new request."""

    ADMIT = "admit"
    BUSY = "busy"
    REPLAYED = "replayed"
    LATE = "late"


class SlotAdmission:
    """`slots` requests run, `queue_max` more may be quoted or wait for a slot."""

    __slots__ = ("slots", "queue_max", "running", "service_s", "_open", "_seen")

    def __init__(self, *, slots: int, queue_max: int) -> None:
        self.slots = slots
        self.queue_max = queue_max
        self.running = 0
        self.service_s = 1.0
        "Decaying mean service time, seconds."
        self._open: dict[tuple[ChannelId, RequestId], None] = {}
        self._seen: OrderedDict[tuple[ChannelId, RequestId], int] = OrderedDict()

    def check(self, channel: ChannelId, request_id: RequestId, *, deadline_ms: int, utc_ms: int) -> SlotVerdict:
        """Verdict on a new request; only ADMIT changes state."""
        seen, key = self._seen, (channel, request_id)
        # One that is open is a replay whatever deadline either of the two names: money and slots are held under its id.
        if key in seen or key in self._open:
            return SlotVerdict.REPLAYED
        if deadline_ms <= utc_ms:
            return SlotVerdict.LATE
        if self.admitted >= self.slots + self.queue_max:
            return SlotVerdict.BUSY
        while seen and (len(seen) >= SEEN_MAX or next(iter(seen.values())) < utc_ms):
            seen.popitem(last=False)
        seen[key] = deadline_ms
        self._open[key] = None
        return SlotVerdict.ADMIT

    def forget(self, channel: ChannelId, request_id: RequestId) -> None:
        """The request was refused for another reason before it was quoted; the payer may ask again."""
        self._seen.pop((channel, request_id), None)
        del self._open[(channel, request_id)]

    def on_end(self, channel: ChannelId, request_id: RequestId) -> None:
        """An admitted request is over."""
        del self._open[(channel, request_id)]

    def on_served(self, service_s: float) -> None:
        """A request ran for this long."""
        self.service_s += SERVICE_GAIN * (service_s - self.service_s)

    @property
    def admitted(self) -> int:
        """Quoted, waiting or running."""
        return len(self._open)

    @property
    def queued(self) -> int:
        """Admitted, but not running."""
        return self.admitted - self.running

    def expected_wait_s(self) -> float:
        """Expected time until a new request gets a slot."""
        ahead = self.admitted + 1 - self.slots
        return max(0, ahead) * self.service_s / self.slots

    def validate(self) -> None:
        """Own invariants."""
        assert 0 <= self.running <= self.slots
        assert self.running <= self.admitted <= self.slots + self.queue_max
        assert len(self._seen) <= SEEN_MAX
