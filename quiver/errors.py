"""Every error QUIVer raises on purpose, and whose fault it is.

::

    QuiverError
    |- UsageError            our caller misused us (a bug or a wrong config)
    |- PeerError             the other side broke the protocol      wire_code, peer_id
    |  |- MalformedMessage
    |  |- UnsupportedVersion
    |  |- BadSignature
    |  |- ReceiptMismatch
    |  `- StreamReset        the other side gave the stream up
    |- Unavailable           nobody's fault: elsewhere, or later    retry_after_s
    |  |- Busy
    |  |- NoProvider
    |  |- PeerUnreachable
    |  `- DeadlineExceeded
    |- RequestRejected       a client asked for what we do not serve  reason
    |  `- InsufficientCredit                                          balance, need
    `- SettlementError       the ledger refused                     reason
"""

from __future__ import annotations

from enum import IntEnum, StrEnum


class WireCode(IntEnum):
    """Codes that travel in `Error`, `Cancel` and stream resets (docs/protocol.md, table of codes)."""

    NONE = 0
    NEGOTIATION_FAILED = 0x1001
    RESOURCE_LIMIT = 0x1002
    RATE_LIMITED = 0x1003
    PROTOCOL_VIOLATION = 0x1004
    SHUTDOWN = 0x1007
    MALFORMED = 0x2001
    UNSUPPORTED_VERSION = 0x2002
    BAD_SIGNATURE = 0x2003
    RECEIPT_MISMATCH = 0x2004
    NOT_AUTHORISED = 0x2005
    REPLAYED = 0x2006
    UNKNOWN_MODEL = 0x2007
    BUSY = 0x2008
    CREDIT = 0x2009
    SLOW_CLIENT = 0x200A
    CLIENT_GONE = 0x200B
    BACKEND_FAILED = 0x200C
    DEADLINE = 0x200D
    TOO_LARGE = 0x200E
    ELSEWHERE = 0x200F
    INTERNAL = 0x20FF


class QuiverError(Exception):
    """Root of all errors raised on purpose."""


class UsageError(QuiverError):
    """Our own caller broke a documented rule, or a config is wrong."""


class PeerError(QuiverError):
    """A peer broke the protocol. State is unchanged."""

    wire_code = WireCode.PROTOCOL_VIOLATION

    def __init__(self, message: str, *, peer_id: bytes | None = None, wire_code: WireCode | None = None) -> None:
        super().__init__(message)
        self.peer_id = peer_id
        if wire_code is not None:
            self.wire_code = wire_code


class MalformedMessage(PeerError):
    """Bytes that are not a message of the protocol."""

    wire_code = WireCode.MALFORMED


class UnsupportedVersion(PeerError):
    """A message of a major version we do not speak."""

    wire_code = WireCode.UNSUPPORTED_VERSION


class BadSignature(PeerError):
    """A signature that does not verify, or verifies under another key."""

    wire_code = WireCode.BAD_SIGNATURE


class ReceiptMismatch(PeerError):
    """A receipt, acknowledgement or proof that contradicts what we hold."""

    wire_code = WireCode.RECEIPT_MISMATCH


class StreamReset(PeerError):
    """The stream ended without its clean end; `code` is the sender's reason."""

    def __init__(self, code: int, message: str = "", *, peer_id: bytes | None = None) -> None:
        super().__init__(message or f"stream reset, code {code:#x}", peer_id=peer_id)
        self.code = code


class Unavailable(QuiverError):
    """Nobody's fault: try elsewhere, or later."""

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Busy(Unavailable):
    """The peer or the gateway is at its limit; never counted as broken."""


class NoProvider(Unavailable):
    """No provider with an unexpired offer serves this model."""


class PeerUnreachable(Unavailable):
    """The peer could not be dialled, or its connection was lost."""


class DeadlineExceeded(Unavailable):
    """`Clock.deadline` ran out."""


class RejectionReason(StrEnum):
    """Why a client's request was refused; `live/http` maps each to a status code."""

    BAD_REQUEST = "bad_request"
    UNAUTHORISED = "unauthorised"
    UNKNOWN_MODEL = "unknown_model"
    RATE_LIMITED = "rate_limited"
    TOO_LARGE = "too_large"
    INSUFFICIENT_CREDIT = "insufficient_credit"
    NOT_ON_LEDGER = "not_on_ledger"
    "As far as we see the ledger, which may be behind the client's view."


class RequestRejected(QuiverError):
    """A client's request that we do not serve, and why."""

    def __init__(self, reason: RejectionReason, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.retry_after_s = retry_after_s


class InsufficientCredit(RequestRejected):
    """The client's account holds less than its request may cost, in credits."""

    def __init__(self, account: str, *, balance: int, need: int) -> None:
        super().__init__(
            RejectionReason.INSUFFICIENT_CREDIT,
            f"account {account!r} holds {balance} credits, this request may cost up to {need}: "
            "ask the gateway's operator for credit, or for fewer tokens",
        )
        self.balance = balance
        self.need = need


class SettlementError(QuiverError):
    """The ledger refused a transaction; `reason` is a stable snake_case name."""

    def __init__(self, reason: str, message: str = "") -> None:
        super().__init__(message or reason)
        self.reason = reason
