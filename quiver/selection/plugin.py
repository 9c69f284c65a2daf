"""Policies of other people: by name, `module:Class` or `file.py:Class`, checked before the first request.

Runs at start-up, never while requests flow. A file is executed as it is: load only what you trust.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import random
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from quiver.errors import QuiverError, UsageError
from quiver.ids import PeerId, RequestId
from quiver.selection.policy import Factory, Policy, check_decision
from quiver.selection.registry import named
from quiver.values.decision import Candidate, Outcome
from quiver.values.request import Dialect, InferenceRequest

_QUESTION = InferenceRequest(
    request_id=RequestId(bytes(16)), model="check", dialect=Dialect.NATIVE, body=b"{}", max_tokens=16,
    prompt_tokens_estimate=16, deadline_ms=60_000,
)  # fmt: skip
_CANDIDATES = tuple(
    Candidate(
        peer=PeerId(name),
        slots=1,
        prompt_price=1,
        completion_price=1,
        in_flight=0,
        rtt_s=None,
        ttft_ewma_s=None,
        channel_ready=False,
        opening_cost_credits=0,
        warm=False,
        reported_queued=0,
        reported_running=0,
        reported_age_s=0.0,
        reported_prefill_tps=1.0,
        reported_decode_tps=1.0,
    )  # fmt: skip
    for name in (b"first", b"second")
)
_OUTCOME = Outcome(
    request_id=_QUESTION.request_id, peer=_CANDIDATES[0].peer, ok=True, busy=False, ttft_s=0.1, e2e_s=1.0,
    completion_tokens=16, prompt_tokens=16,
)  # fmt: skip


def load(spec: str) -> Factory:
    """The factory behind a name, `module:Class` or `file.py:Class`; `UsageError` says what is wrong and what to do."""
    return resolve(find(spec), called=spec) if ":" in spec else named(spec)


def find(spec: str) -> Any:
    """What `module:Name` or `file.py:Name` names, unchecked; `UsageError` when there is no such thing."""
    place, _, name = spec.rpartition(":")
    module = _module_of_file(Path(place)) if place.endswith(".py") else _module_by_name(place)
    found = getattr(module, name, None)
    if found is None:
        raise UsageError(f"{place} has no class {name!r}: check the name after the colon in {spec!r}")
    return found


def resolve(plug: str | Callable[[], Any], *, called: str = "") -> Factory:
    """A policy however it is given (name, class, factory) as a checked factory."""
    if isinstance(plug, str):
        return load(plug)
    called = called or getattr(plug, "__qualname__", repr(plug))
    if not callable(plug):
        raise UsageError(f"{called} is a {type(plug).__name__}: give the policy's class, so each gateway makes its own")
    check_policy(plug, called)
    return plug


def check_policy(factory: Callable[[], Any], called: str) -> None:
    """Make one instance and ask it a question with two candidates, as a gateway would; `UsageError` at a mistake."""
    try:
        policy = factory()
    except Exception as error:
        raise UsageError(
            f"{called} could not be made without arguments ({error}): give each constructor argument a default"
        ) from error
    if not isinstance(getattr(policy, "name", None), str) or not policy.name:
        raise UsageError(f'{called} has no name: add `name = "my-policy"` to the class')
    for method, keywords in (("choose", ("now", "rng")), ("on_outcome", ("now",)), ("probes", ("now", "rng"))):
        _check_method(policy, method, keywords, called)
    _rehearse(policy, called)


def _check_method(policy: Any, method: str, keywords: tuple[str, ...], called: str) -> None:
    function = getattr(policy, method, None)
    if function is None:
        if method == "choose":
            raise UsageError(f"{called} has no method choose(self, request, candidates, *, now, rng): add it")
        return
    if inspect.iscoroutinefunction(function):
        raise UsageError(f"{called}.{method} is async: a policy decides at once, make it a plain function")
    questions = {"choose": (_QUESTION, _CANDIDATES), "on_outcome": (_OUTCOME,), "probes": ()}[method]
    try:
        inspect.signature(function).bind(*questions, **dict.fromkeys(keywords))
    except TypeError as error:
        wanted = getattr(Policy, method, None)
        raise UsageError(
            f"{called}.{method} cannot be called as the gateway does ({error})"
            + (f": its signature is {inspect.signature(wanted)}" if wanted else f": it takes the keywords {keywords}")
        ) from error


def _rehearse(policy: Policy, called: str) -> None:
    """The instance is thrown away afterwards, so nothing it learns here reaches a gateway."""
    try:
        for candidates in ((), _CANDIDATES[:1], _CANDIDATES):
            decision = policy.choose(_QUESTION, candidates, now=0.0, rng=random.Random(0))
            check_decision(decision, candidates)
    except QuiverError as error:
        raise UsageError(f"{called}: {error}") from error
    except Exception as error:
        raise UsageError(
            f"{called}.choose failed on a trial question with {len(candidates)} candidates"
            f" ({type(error).__name__}: {error}): it must answer any number of candidates, and some fields may be None"
        ) from error


def _module_by_name(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UsageError(
            f"module {name!r} could not be imported ({error}): is it installed, or on PYTHONPATH?"
        ) from error


def _module_of_file(path: Path) -> ModuleType:
    """Execute the file once; the module's name holds its content's hash, so an edited file is a new module."""
    try:
        source = path.read_bytes()
    except OSError as error:
        raise UsageError(f"file {path} could not be read ({error.strerror}): check the path") from error
    digest = hashlib.sha256(str(path.resolve()).encode() + b"\0" + source).hexdigest()[:16]
    name = f"quiver_plugin_{path.stem}_{digest}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise UsageError(f"file {path} failed while it was loaded ({type(error).__name__}: {error})") from error
    return module
