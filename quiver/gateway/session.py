"""One client's request over all its attempts: whom to try next, when to give up, what the client is told. No I/O, no clock."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from quiver.errors import (
    Busy,
    DeadlineExceeded,
    NoProvider,
    PeerError,
    PeerUnreachable,
    QuiverError,
    Unavailable,
    WireCode,
)  # fmt: skip
from quiver.gateway.delivery import Delivery
from quiver.gateway.resume import Transcript, can_resume, compute_rest, is_worth_resuming
from quiver.ids import PeerId
from quiver.params import Params
from quiver.values.decision import Candidate
from quiver.values.request import Failure, InferenceRequest

if TYPE_CHECKING:
    from quiver.gateway.attempt import Attempt

UNREACHABLE = "the connection to the provider could not be made or was lost"


class Session:
    """An answer that has begun is never begun again elsewhere; it is continued there if that was allowed, or ends."""

    __slots__ = ("request", "asked", "attempts", "tried", "first_token_s", "dispatched_s", "running", "deliveries", "parts",
                 "transcript", "hedged", "is_slowed", "_before", "_serving", "_params", "_last_error")  # fmt: skip

    def __init__(self, request: InferenceRequest, params: Params, *, resume: bool = False) -> None:
        """`resume`: a broken answer may be continued by another provider."""
        self.request = request
        self.asked = request
        "What providers are asked: the request, or what is missing of its answer."
        self.attempts = 0
        self.tried: list[PeerId] = []
        self.first_token_s: float | None = None
        self.dispatched_s: float | None = None
        self.running: list[Attempt] = []
        "Attempts under way: one, or two until one of them answers."
        self.deliveries: list[Delivery] = []
        "Of every attempt that was accepted: together what the request costs."
        self.parts: list[Delivery] = []
        "Of those, the ones the client's text is from, in order."
        self.transcript = Transcript() if resume and can_resume(request) else None
        "None: a broken answer is not continued."
        self.hedged = False
        self.is_slowed = False
        "A provider failed or was busy: the time to the first token says nothing then, and load is no reason to make more of it."
        self._before = 0
        self._serving: Delivery | None = None
        self._params = params
        self._last_error: QuiverError | None = None

    def eligible(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Not tried yet; those with an open channel if there are any."""
        fresh = list(candidates)
        if self.tried:
            fresh = [candidate for candidate in fresh if candidate.peer not in self.tried]
        return [candidate for candidate in fresh if candidate.channel_ready] or fresh

    def on_dispatch(self, peer: PeerId, now: float) -> None:
        """An attempt begins."""
        self.attempts += 1
        self.tried.append(peer)
        self.dispatched_s = now if self.dispatched_s is None else self.dispatched_s

    def on_first_token(self, delivery: Delivery, now: float) -> bool:
        """An attempt delivers; True if the client's text goes on with it, False if another came first."""
        if self._serving is not None:
            return False
        self._serving = delivery
        self._before = self.tokens_before(delivery)
        self.parts.append(delivery)
        self.first_token_s = now if self.first_token_s is None else self.first_token_s
        return True

    def on_error(self, error: QuiverError) -> bool:
        """An attempt failed; True if another may be made. A busy peer does not use up an attempt."""
        self._last_error, self._serving, self.is_slowed = error, None, True
        if isinstance(error, Busy):
            self.attempts -= 1
            is_left = len(self.tried) < 4 * self._params.attempts_max
        else:
            is_left = self.attempts < self._params.attempts_max
        return is_left and (self.first_token_s is None or self._ask_for_rest(error))

    def _ask_for_rest(self, error: QuiverError) -> bool:
        if self.transcript is None or not is_worth_resuming(error):
            return False
        rest = compute_rest(self.request, self.transcript, self._params)
        self.asked = rest or self.asked
        return rest is not None

    # ---- sums over attempts

    @property
    def delivered_tokens(self) -> int:
        """Of the client's answer."""
        return self._before + self.parts[-1].tokens if self.parts else 0

    def tokens_before(self, delivery: Delivery) -> int:
        """What the client had before this provider went on. Chunks that come too late, after a Cancel, are paid but not its."""
        if self.parts and self.parts[-1] is delivery:
            return self._before
        return self.transcript.tokens if self.parts and self.transcript is not None else 0

    @property
    def ttft_s(self) -> float | None:
        """From the first dispatch to the first token, seconds; None if a failure was in between."""
        if self.first_token_s is None or self.dispatched_s is None or self.is_slowed:
            return None
        return self.first_token_s - self.dispatched_s

    @property
    def paid_credits(self) -> int:
        """Receipts accepted so far. Somebody who was stopped may still send its last one."""
        return sum(delivery.billed_credits for delivery in self.deliveries)

    def quoted_credits(self, last: Delivery) -> int:
        """Quotes of those who delivered, and of the `last` one."""
        return sum(one.quote.amount_max for one in self.deliveries if one.chunks or one is last)

    @property
    def resumed(self) -> int:
        """How often another provider went on."""
        return max(0, len(self.parts) - 1)

    def failure(self, error: QuiverError) -> Failure:
        """What the client is told. The last attempt's error says more than 'no provider is left'."""
        told = error
        if self._last_error is not None and (self.first_token_s is None or isinstance(error, NoProvider)):
            told = self._last_error
        retry_after_s = told.retry_after_s if isinstance(told, Unavailable) else None
        # Where a provider lives is nobody's business but the operator's, whose log has the whole error.
        message = UNREACHABLE if isinstance(told, PeerUnreachable) else str(told)
        return Failure(
            code=wire_code(told), message=message, retry_after_s=retry_after_s, delivered_tokens=self.delivered_tokens,
            attempts=max(self.attempts, 0), paid_credits=self.paid_credits, resumed=self.resumed, hedged=self.hedged,
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
