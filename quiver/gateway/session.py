"""One client's request over all its attempts: whom to try next, when to give up, what the client is told. No I/O, no clock."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from quiver.errors import Busy, DeadlineExceeded, PeerError, PeerUnreachable, QuiverError, Unavailable, WireCode
from quiver.ids import PeerId
from quiver.params import Params
from quiver.values.decision import Candidate
from quiver.values.request import Failure, InferenceRequest

if TYPE_CHECKING:
    from quiver.gateway.attempt import Attempt

UNREACHABLE = "the connection to the provider could not be made or was lost"


class Session:
    """Failover only before the first token: an answer that has begun is never begun again elsewhere."""

    __slots__ = ("request", "attempts", "tried", "first_token_s", "dispatched_s", "delivered_tokens", "paid_credits",
                 "quoted_credits", "attempt", "_params", "_last_error")  # fmt: skip

    def __init__(self, request: InferenceRequest, params: Params) -> None:
        self.request = request
        self.attempts = 0
        self.tried: list[PeerId] = []
        self.first_token_s: float | None = None
        self.dispatched_s: float | None = None
        self.delivered_tokens = 0
        self.paid_credits = 0
        self.quoted_credits = 0
        self.attempt: Attempt | None = None
        "The one that is under way."
        self._params = params
        self._last_error: QuiverError | None = None

    def eligible(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Not tried yet; those with an open channel if there are any."""
        fresh = [candidate for candidate in candidates if candidate.peer not in self.tried]
        return [candidate for candidate in fresh if candidate.channel_ready] or fresh

    def on_dispatch(self, peer: PeerId, now: float) -> None:
        """An attempt begins."""
        self.attempts += 1
        self.tried.append(peer)
        self.dispatched_s = now if self.dispatched_s is None else self.dispatched_s

    def on_error(self, error: QuiverError) -> bool:
        """An attempt failed; True if another may be made. A busy peer does not use up an attempt."""
        self._last_error = error
        if isinstance(error, Busy):
            self.attempts -= 1
            return self.first_token_s is None and len(self.tried) < 4 * self._params.attempts_max
        return self.first_token_s is None and self.attempts < self._params.attempts_max

    def failure(self, error: QuiverError) -> Failure:
        """What the client is told. The last attempt's error says more than 'no provider is left'."""
        told = self._last_error if self._last_error is not None and self.first_token_s is None else error
        retry_after_s = told.retry_after_s if isinstance(told, Unavailable) else None
        # Where a provider lives is nobody's business but the operator's, whose log has the whole error.
        message = UNREACHABLE if isinstance(told, PeerUnreachable) else str(told)
        return Failure(
            code=wire_code(told), message=message, retry_after_s=retry_after_s, delivered_tokens=self.delivered_tokens,
            attempts=max(self.attempts, 0), paid_credits=self.paid_credits,
        )  # fmt: skip


def wire_code(error: QuiverError) -> int:
    """The code that names this kind of error to others."""
    if isinstance(error, Busy):
        return WireCode.BUSY
    if isinstance(error, DeadlineExceeded):
        return WireCode.DEADLINE
    if isinstance(error, PeerError):
        return error.wire_code
    return WireCode.RESOURCE_LIMIT if isinstance(error, Unavailable) else WireCode.INTERNAL
