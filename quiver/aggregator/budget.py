"""How much an asker may cost: questions beyond it wait, those that would wait too long are refused.

Rules of this file: no clock (`now` is an argument), no waiting. Providers whose receipts were taken have a budget each; all others
share one, because a peer id costs nothing.
"""

from __future__ import annotations

from collections import OrderedDict

from quiver.errors import PeerError, WireCode
from quiver.ids import PeerId

# A unit is one page read and hashed, 0.34 ms of CPU where it was measured (decision 009); a provider may ask for 32 a second.
UNITS_PER_S = 32.0
UNITS_AT_ONCE = 256.0
# Strangers together: a twentieth of a core.
STRANGERS_UNITS_PER_S = 128.0
WAIT_S_MAX = 5.0
PEERS_MAX = 4096
_STRANGERS = PeerId(b"")


class Budget:
    """For each asker, the time at which all it asked for so far would be paid at its rate."""

    def __init__(self) -> None:
        self._paid_s: OrderedDict[PeerId, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._paid_s)

    def take(self, peer: PeerId, units: float, *, known: bool, now: float) -> float:
        """Seconds to wait before the answer; `PeerError` RATE_LIMITED, and nothing taken, for a question that came too early."""
        key, rate = (peer, UNITS_PER_S) if known else (_STRANGERS, STRANGERS_UNITS_PER_S)
        paid_s = max(self._paid_s.get(key, now), now) + units / rate
        wait_s = paid_s - now - UNITS_AT_ONCE / rate
        if wait_s > WAIT_S_MAX:
            raise PeerError("too many questions: ask more slowly", peer_id=peer, wire_code=WireCode.RATE_LIMITED)
        self._paid_s[key] = paid_s
        self._paid_s.move_to_end(key)
        if len(self._paid_s) > PEERS_MAX:
            self._paid_s.popitem(last=False)
        return max(0.0, wait_s)
