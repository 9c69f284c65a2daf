"""What a fraud detector is, and how one is loaded: like a policy, by name, `module:Class`, `file.py:Class` or as a class.

Rules: a detector is a value. It looks at one provider's history (and through `history.book` at everybody else), takes the time,
changes nothing, awaits nothing. Its score is evidence for somebody else to weigh; nothing is slashed for it.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

from quiver.errors import UsageError
from quiver.ids import Address, ModelId, PeerId
from quiver.receipts.history import Book, History
from quiver.selection import plugin
from quiver.values.evidence import Evidence
from quiver.values.offer import Offer

REASONS_MAX = 4


@runtime_checkable
class Detector(Protocol):
    """Judges one provider."""

    @property
    def name(self) -> str:
        """Short and stable: it names the rows of every table."""

    def score(self, history: History, now_ms: int) -> Evidence:
        """0 where nothing speaks against the provider; above the evidence's threshold it is suspicious."""


Factory = Callable[[], Detector]


def conclude(
    history: History, now_ms: int, *, detector: str, score: float, threshold: float, reasons: Sequence[str] = ()
) -> Evidence:
    """The evidence of one look at `history`; reasons count only with a score."""
    return Evidence(
        peer=history.peer, detector=detector, score=score, threshold=threshold,
        reasons=tuple(reasons[:REASONS_MAX]) if score > 0 else (), since_ms=history.since_ms, until_ms=now_ms,
    )  # fmt: skip


def resolve(plug: str | Factory, builtins: dict[str, Factory]) -> Factory:
    """A detector however it is given, as a checked factory; `UsageError` says what is wrong."""
    called = plug if isinstance(plug, str) else getattr(plug, "__qualname__", repr(plug))
    if isinstance(plug, str):
        if ":" in plug:
            plug = plugin.find(plug)
        elif plug in builtins:
            plug = builtins[plug]
        else:
            raise UsageError(
                f"no fraud detector is called {plug!r}; there are: {', '.join(sorted(builtins))}; or give module:Class or file.py:Class"
            )
    if not callable(plug):
        raise UsageError(f"{called} is a {type(plug).__name__}: give the detector's class")
    check_detector(plug, called)
    return plug


def check_detector(factory: Callable[[], Any], called: str) -> None:
    """Make one and show it an empty history and an offer without requests; `UsageError` at a mistake."""
    try:
        detector = factory()
    except Exception as error:
        raise UsageError(
            f"{called} could not be made without arguments ({error}): give each constructor argument a default"
        ) from error
    if not isinstance(getattr(detector, "name", None), str) or not detector.name:
        raise UsageError(f'{called} has no name: add `name = "my-detector"` to the class')
    function = getattr(detector, "score", None)
    if function is None or inspect.iscoroutinefunction(function):
        raise UsageError(f"{called} has no plain method score(self, history, now_ms): add it")
    book = Book()
    book.on_offer(_OFFER)
    for peer in (PeerId(b"nobody"), _OFFER.provider):
        try:
            check_evidence(detector.score(book.history(peer), 0), peer)
        except UsageError as error:
            raise UsageError(f"{called}: {error}") from error
        except Exception as error:
            raise UsageError(
                f"{called}.score failed on a provider without requests ({type(error).__name__}: {error})"
            ) from error


def check_evidence(evidence: Evidence, peer: PeerId) -> None:
    """`UsageError` names a detector's mistake."""
    if not isinstance(evidence, Evidence):
        raise UsageError(f"score() returned {type(evidence).__name__}: return an Evidence, see `conclude`")
    if evidence.peer != peer:
        raise UsageError("score() returned evidence about another peer than the one it was shown")
    if not (0 <= evidence.score < math.inf and 0 <= evidence.threshold < math.inf):
        raise UsageError(f"score and threshold are numbers from 0, not {evidence.score} and {evidence.threshold}")


_OFFER = Offer(
    provider=PeerId(b"somebody"), public_key=bytes(32), model=ModelId(bytes(32)), name="check", prompt_price=1,
    completion_price=1, minimum_credits=1, hardware="", slots=1, prefill_tps=1.0, decode_tps=1.0, payout=Address(bytes(20)),
    chain_id=1, contract=Address(bytes(20)), generation=1, expires_ms=0,
)  # fmt: skip
