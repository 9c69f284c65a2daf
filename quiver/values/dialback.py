"""The question "can you reach me there?" and its answer."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Outcome(StrEnum):
    """What became of a dial back."""

    REACHED = "reached"
    UNREACHED = "unreached"
    REFUSED = "refused"
    "Not tried: too many questions, or an address that is not the asker's."


class DialBackQuestion(msgspec.Struct, frozen=True, kw_only=True, tag="D", array_like=True):
    """Dial one address of the asker on a connection of its own."""

    address: bytes
    "Binary multiaddr without /p2p, with the IP the asker is connected from."


class DialBackAnswer(msgspec.Struct, frozen=True, kw_only=True, tag="d", array_like=True):
    """What came of it."""

    outcome: Outcome
    reason: str = ""
    "For people."
