"""Plug points of a scenario: where a researcher's own class takes the place of a built-in.

Rules of this file: one way in for every point. A plug is the name of a built-in, `module:Class`, `file.py:Class`, a class or
function, or an object that fits already. A class or function is called once a world (once a machine for `service`) with
what its point offers, or as much of it from the left as it takes; an object is copied, so no run leaks into the next. What comes
out is checked at once: a `UsageError` says which field, what was given, and what is missing.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from quiver.errors import UsageError
from quiver.selection import plugin

Plug = Any
"""A registered name, a class, a function, an object, `module:Class` or `file.py:Class`."""


@dataclass(frozen=True, kw_only=True)
class PlugPoint:
    """One replaceable part of a scenario.

    field      the scenario's field
    builtins   name -> class or function
    offers     names of the arguments a class or function is called with
    methods    what the Protocol asks for: method -> its positional arguments
    plain      what else the field takes, for messages
    kind       instead of methods: the class that must come out; its objects are values and are not copied
    """

    field: str
    builtins: Mapping[str, Callable[..., Any]]
    plain: str = ""
    offers: tuple[str, ...] = ()
    methods: Mapping[str, tuple[str, ...]] | None = None
    kind: type | None = None

    def check(self, plug: Plug) -> None:
        """Refuse what can't be right, without making anything."""
        if isinstance(plug, str):
            if ":" not in plug and plug not in self.builtins:
                names = [*([self.plain] if self.plain else []), *sorted(self.builtins)]
                raise UsageError(
                    f"no {self.field} is called {plug!r}; there are: {', '.join(names)}; "
                    "or give module:Class, file.py:Class, a class or an object"
                )
        elif not self._fits(plug) and not callable(plug):
            raise UsageError(f"scenario field {self.field}: {plug!r} is {self._shortfall(plug)}")

    def make(self, plug: Plug, *arguments: Any) -> Any:
        """The part for one world; `arguments` are what the point offers."""
        self.check(plug)
        called = plug if isinstance(plug, str) else plug_name(plug)
        if isinstance(plug, str):
            plug = plugin.find(plug) if ":" in plug else self.builtins[plug]
        if not inspect.isclass(plug) and self._fits(plug):
            return plug if self.kind is not None else copy.deepcopy(plug)
        if not callable(plug):
            raise UsageError(f"scenario field {self.field}: {called} is {self._shortfall(plug)}")
        made = self._call(plug, called, arguments)
        if not self._fits(made):
            raise UsageError(f"scenario field {self.field}: {called} made {made!r}, which is {self._shortfall(made)}")
        return made

    def _call(self, plug: Callable[..., Any], called: str, arguments: tuple[Any, ...]) -> Any:
        try:
            signature = inspect.signature(plug)
        except ValueError:  # some built-in types have none
            return plug(*arguments)
        for count in range(len(arguments), -1, -1):
            given = arguments[:count]
            try:
                signature.bind(*given)
            except TypeError:
                continue
            return plug(*given)
        wanted = f"({', '.join(self.offers)})" + (
            ", or as many of these from the left as it takes" if self.offers else ""
        )
        raise UsageError(
            f"scenario field {self.field}: {called}{signature} cannot be called; it is called with {wanted}"
        )

    def _fits(self, made: Any) -> bool:
        return self._shortfall(made) == ""

    def _shortfall(self, made: Any) -> str:
        """What is wrong with it, as the end of a sentence; empty if nothing is."""
        if self.kind is not None:
            return "" if isinstance(made, self.kind) else f"no {self.kind.__name__}, but a {type(made).__name__}"
        for name, parameters in (self.methods or {}).items():
            signature = f"{name}({', '.join(parameters)})"
            method = getattr(made, name, None)
            if not callable(method):
                return f"a {type(made).__name__} without a method {signature}"
            try:
                inspect.signature(method).bind(*[None] * len(parameters))
            except TypeError:
                return f"a {type(made).__name__} whose {name}{inspect.signature(method)} can't be called as {signature}"
            except ValueError:
                continue
        return ""


def plug_name(plug: Plug) -> str:
    """How a plug is shown in tables."""
    if isinstance(plug, str):
        return plug.rpartition(":")[2] if ":" in plug else plug
    if isinstance(plug, (int, float)):
        return f"{plug:g}" if isinstance(plug, float) else str(plug)
    own = getattr(plug, "name", None)
    if isinstance(own, str) and not inspect.isclass(plug):
        return own
    return str(getattr(plug, "__name__", type(plug).__name__))
