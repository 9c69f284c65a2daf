"""The two handles of the simulated loop: `Ready` waits in its deque, `Timer` in SimPy's heap."""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sim.loop import SimLoop


class Ready:
    """A handle in the ready deque."""

    __slots__ = ("callback", "args", "context")

    def __init__(self, callback: Callable[..., Any], args: tuple[Any, ...], context: contextvars.Context) -> None:
        self.callback: Callable[..., Any] | None = callback
        self.args = args
        self.context = context

    def cancel(self) -> None:
        self.callback = None

    def cancelled(self) -> bool:
        return self.callback is None


class Timer(Ready):
    """A timer handle that is the heap entry."""

    __slots__ = ("_when", "_loop")

    def __init__(
        self,
        when: float,
        callback: Callable[..., Any],
        args: tuple[Any, ...],
        context: contextvars.Context,
        loop: SimLoop,
    ) -> None:
        self.callback = callback
        self.args = args
        self.context = context
        self._when = when
        self._loop: SimLoop | None = loop

    def when(self) -> float:
        return self._when

    def cancel(self) -> None:
        if self.callback is not None:
            self.callback = None
            self.args = ()
            if self._loop is not None:
                self._loop._on_timer_cancelled()
                self._loop = None
