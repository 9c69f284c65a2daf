"""What an operator has to look after, because the node can't help it alone: told once for as long as it holds."""

from __future__ import annotations

from quiver import trace
from quiver.runtime import Runtime


class Concerns:
    """By subject. Each is a `SettlementWarned` event when it begins or changes."""

    def __init__(self, runtime: Runtime) -> None:
        self.by_subject: dict[str, str] = {}
        self._runtime = runtime

    @property
    def health(self) -> str | None:
        """None when well, otherwise what is wrong and what to do."""
        return "; ".join(self.by_subject.values()) or None

    def warn(self, subject: str, detail: str) -> None:
        """It holds from now on."""
        if self.by_subject.get(subject) != detail:
            self.by_subject[subject] = detail
            runtime = self._runtime
            runtime.trace.emit(
                trace.SettlementWarned(
                    at_s=runtime.clock.now(), node=runtime.signer.peer_id, subject=subject, detail=detail
                )
            )

    def clear(self, subject: str) -> None:
        """It holds no more."""
        self.by_subject.pop(subject, None)
