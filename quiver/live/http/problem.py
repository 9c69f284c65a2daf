"""Why a door refuses: one exception with an HTTP status, made from the protocol's errors.

Each dialect shows a `Problem` in the shape its own clients expect; nothing here knows those shapes.
"""

from __future__ import annotations

import math

from quiver.errors import (
    Busy,
    DeadlineExceeded,
    InsufficientCredit,
    QuiverError,
    RejectionReason,
    RequestRejected,
    Unavailable,
    WireCode,
)
from quiver.values.request import Failure

RETRY_AFTER_DEFAULT_S = 1.0
"What a 429 or 503 tells a client to wait when nobody knows better."

_REJECTION_STATUS = {
    RejectionReason.BAD_REQUEST: 400,
    RejectionReason.UNAUTHORISED: 401,
    # Not 429, which OpenAI's API says here: its clients, and others, would ask again at once, and again in vain.
    RejectionReason.INSUFFICIENT_CREDIT: 402,
    RejectionReason.UNKNOWN_MODEL: 404,
    RejectionReason.NOT_ON_LEDGER: 409,
    RejectionReason.TOO_LARGE: 413,
    RejectionReason.RATE_LIMITED: 429,
}
_FAILURE_STATUS = {
    WireCode.MALFORMED: 400,
    WireCode.UNKNOWN_MODEL: 404,
    WireCode.TOO_LARGE: 413,
    WireCode.RATE_LIMITED: 429,
    WireCode.INTERNAL: 500,
    WireCode.DEADLINE: 504,
}
_KIND = {
    400: "bad_request", 401: "unauthorised", 402: "insufficient_credit", 404: "not_found", 405: "method_not_allowed", 408: "request_timeout",
    413: "too_large", 429: "rate_limited", 500: "internal", 503: "unavailable", 504: "deadline_exceeded",
}  # fmt: skip


class Problem(Exception):
    """An answer that is not an answer: status, message for people, seconds to wait."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str | None = None,
        retry_after_s: float | None = None,
        failure: Failure | None = None,
        shortage: InsufficientCredit | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind or _KIND.get(status, "error")
        if retry_after_s is None and status in (429, 503):
            retry_after_s = RETRY_AFTER_DEFAULT_S
        self.retry_after_s = retry_after_s
        self.failure = failure
        "What the service said of an answer that broke off: tokens that came, credits they cost."
        self.shortage = shortage
        "What a client's account holds and what its request needs."

    def headers(self) -> dict[str, str]:
        """`Retry-After` in whole seconds (RFC 9110, 10.2.3), and in milliseconds for clients that read it."""
        headers = {}
        if self.retry_after_s is not None:
            headers["Retry-After"] = str(max(1, math.ceil(self.retry_after_s)))
            headers["Retry-After-Ms"] = str(math.ceil(self.retry_after_s * 1000))
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return headers


def problem_of_error(error: QuiverError) -> Problem:
    """The problem a client sees when the service raised `error`."""
    if isinstance(error, RequestRejected):
        status = _REJECTION_STATUS[error.reason]
        kind = "unknown_model" if error.reason is RejectionReason.UNKNOWN_MODEL else None
        # A rate limit knows when it will let the client in; other rejections do not.
        shortage = error if isinstance(error, InsufficientCredit) else None
        return Problem(status, str(error), kind=kind, retry_after_s=error.retry_after_s, shortage=shortage)
    if isinstance(error, DeadlineExceeded):
        return Problem(504, str(error))
    if isinstance(error, Unavailable):
        return Problem(
            503, str(error), kind="busy" if isinstance(error, Busy) else None, retry_after_s=error.retry_after_s
        )
    return Problem(500, f"the gateway could not finish this request: {error}")


def problem_of_failure(failure: Failure) -> Problem:
    """The problem a client sees for a `Failure` event."""
    code = WireCode(failure.code) if failure.code in WireCode._value2member_map_ else WireCode.INTERNAL
    status = _FAILURE_STATUS.get(code, 503)
    return Problem(
        status, failure.message, kind=code.name.lower(), retry_after_s=failure.retry_after_s, failure=failure
    )
