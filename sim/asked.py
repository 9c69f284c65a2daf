"""A question on its way whose end is a call.

A future would wake a task, which is a handle, a context switch and a coroutine for each answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from quiver.ids import PeerId
from quiver.ports import OnEnd

if TYPE_CHECKING:
    from sim.transport import SimTransport


class Asked:
    """Stands where a future stands: the first result or exception ends it."""

    __slots__ = ("setup_s", "_asked_s", "_transport", "_peer", "_timeout_s", "_on_end", "_about")

    def __init__(self, transport: SimTransport, peer: PeerId, timeout_s: float, on_end: OnEnd, about: Any) -> None:
        self.setup_s = 0.0
        "Of the handshake before it."
        self._asked_s = transport.network.env._now
        self._transport = transport
        self._peer = peer
        self._timeout_s = timeout_s
        self._on_end: OnEnd | None = on_end
        self._about = about

    def done(self) -> bool:
        return self._on_end is None

    def set_result(self, answer: Any) -> None:
        self._transport.on_rtt(self._peer, self._asked_s, self.setup_s)
        self._end(answer, None)

    def set_exception(self, error: Exception) -> None:
        self._end(None, error)

    def _end(self, answer: Any, error: Exception | None) -> None:
        on_end, self._on_end = self._on_end, None
        assert on_end is not None
        self._transport.network.timeouts.on_done(self._timeout_s)
        on_end(self._about, answer, error)
