"""What a gateway lets in: limits on requests, sizes and each principal's rate. No I/O; callers pass the time."""

from __future__ import annotations

from collections import OrderedDict

from quiver.errors import Busy, RejectionReason, RequestRejected
from quiver.params import Params
from quiver.values.request import InferenceRequest, Principal

# Token buckets kept; the least recently used principal starts afresh beyond it.
PRINCIPALS_MAX = 65_536
# A principal may burst this many seconds of its rate.
BURST_S = 2.0


class TokenBucket:
    """`rate` per second, up to `burst` at once."""

    __slots__ = ("rate", "burst", "_level", "_at_s")

    def __init__(self, *, rate: float, burst: float, now: float) -> None:
        self.rate = rate
        self.burst = burst
        self._level = burst
        self._at_s = now

    def take(self, now: float) -> float:
        """0 if one was taken, otherwise seconds until one will be there."""
        self._level = min(self.burst, self._level + (now - self._at_s) * self.rate)
        self._at_s = now
        if self._level >= 1:
            self._level -= 1
            return 0.0
        return (1 - self._level) / self.rate


class GatewayAdmission:
    """Counts open requests; `release` exactly once for each `admit` that returned."""

    __slots__ = ("open", "_params", "_buckets")

    def __init__(self, params: Params) -> None:
        self.open = 0
        self._params = params
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def admit(self, request: InferenceRequest, principal: Principal, *, now: float, utc_ms: int) -> None:
        """`RequestRejected` or `Busy`, with nothing changed but the principal's bucket."""
        params = self._params
        if len(request.body) > params.body_bytes_max:
            raise RequestRejected(
                RejectionReason.TOO_LARGE,
                f"the request has {len(request.body)} bytes, at most {params.body_bytes_max} are served",
            )
        if not 1 <= request.max_tokens <= params.max_tokens_limit:
            raise RequestRejected(
                RejectionReason.BAD_REQUEST,
                f"max_tokens must be 1 to {params.max_tokens_limit}, not {request.max_tokens}",
            )
        if request.prompt_tokens_estimate < 0 or request.prompt_tokens_estimate > params.max_tokens_limit * 8:
            raise RequestRejected(RejectionReason.TOO_LARGE, f"a prompt of {request.prompt_tokens_estimate} tokens")
        if request.deadline_ms <= utc_ms:
            raise RequestRejected(RejectionReason.BAD_REQUEST, "the deadline has passed already")
        if self.open >= params.gateway_requests_max:
            raise Busy(f"this gateway has {self.open} requests open, its limit", retry_after_s=1.0)
        wait_s = self._wait_s(principal, now)
        if wait_s > 0:
            raise RequestRejected(
                RejectionReason.RATE_LIMITED, f"slower, please: try again in {wait_s:.2f} s", retry_after_s=wait_s
            )
        self.open += 1

    def release(self) -> None:
        """An admitted request is over."""
        self.open -= 1

    def _wait_s(self, principal: Principal, now: float) -> float:
        rate = principal.requests_per_s
        if rate is None:
            return 0.0
        bucket = self._buckets.get(principal.name)
        if bucket is None or bucket.rate != rate:
            bucket = TokenBucket(rate=rate, burst=max(1.0, rate * BURST_S), now=now)
            self._buckets[principal.name] = bucket
            if len(self._buckets) > PRINCIPALS_MAX:
                self._buckets.popitem(last=False)
        self._buckets.move_to_end(principal.name)
        return bucket.take(now)
