"""The memory of a mock engine: which models are loaded, who may use a slot, what each slot's prefix cache holds.

A model is on disk, loading, loaded (with users, until `expires_at`) or expired. One load runs at a time. A request for a
loaded model waits for a slot without limit, as with Ollama; only those that need a load are bounded (`max_queue`).
"""

from __future__ import annotations

import asyncio
import os.path
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from quiver.live.backends.mock.config import PROFILES, MockConfig, MockModel
from quiver.live.backends.mock.text import CHARACTERS_PER_TOKEN
from quiver.live.backends.mock.timing import WARM_LOAD_S, Timing


class EngineError(Exception):
    """An HTTP error of the engine."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


BUSY_TEXT = "server busy, please try again.  maximum pending requests exceeded"


@dataclass
class Slot:
    """One place in the batch, and the prompt it evaluated last."""

    prompt: str = ""
    busy: bool = False

    def cached_tokens(self, prompt: str) -> int:
        """Prompt tokens that need no evaluation here."""
        return len(os.path.commonprefix([self.prompt, prompt])) // CHARACTERS_PER_TOKEN


@dataclass
class Runner:
    """A loaded model."""

    model: MockModel
    options: tuple[tuple[str, Any], ...]
    "Load-time options; other ones mean another load."
    slots: list[Slot]
    timing: Timing
    free: asyncio.Semaphore
    expires_at: float = 0.0
    last_used: float = 0.0
    users: int = 0
    waiting: int = 0
    decoding: list[list[float]] = field(default_factory=list)
    "One cell per decoding stream: the stall it has yet to suffer, seconds."
    busy_s: float = 0.0
    "Modelled slot time spent so far; how long others waited follows from it."

    async def take_slot(self, prompt: str) -> Slot:
        """Wait in order, then the free slot whose cache fits best."""
        self.waiting += 1
        try:
            await self.free.acquire()
        finally:
            self.waiting -= 1
        idle = [slot for slot in self.slots if not slot.busy]
        slot = max(idle, key=lambda slot: slot.cached_tokens(prompt))
        slot.busy = True
        return slot

    def give_slot(self, slot: Slot) -> None:
        """The slot is free again."""
        slot.busy = False
        self.free.release()


class Memory:
    """Loads, keeps and evicts runners."""

    def __init__(
        self,
        config: MockConfig,
        *,
        now: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
        log: Callable[[str, str], None],
    ) -> None:
        self._config, self._now, self._sleep, self._log = config, now, sleep, log
        self.disk = {model.name: model for model in config.models if model.on_disk}
        self._runners: dict[str, Runner] = {}
        self._loads_waiting = 0
        self._load_lock = asyncio.Lock()
        self._changed = asyncio.Event()

    def find(self, name: str) -> MockModel:
        """The model on disk; `EngineError` 404 with Ollama's text."""
        for candidate in (name, f"{name}:latest", name.removesuffix(":latest")):
            if candidate in self.disk:
                return self.disk[candidate]
        raise EngineError(404, f"model '{name}' not found")

    def loaded(self) -> list[Runner]:
        """What `/api/ps` shows: longest-lived first."""
        for runner in list(self._runners.values()):
            if runner.users == 0 and runner.expires_at <= self._now():
                self.unload(runner)
        return sorted(self._runners.values(), key=lambda runner: -runner.expires_at)

    async def acquire(self, model: MockModel, options: tuple[tuple[str, Any], ...]) -> tuple[Runner, float]:
        """A loaded runner with one more user, and the modelled seconds it took. `EngineError` 503 when too many wait."""
        runner = self._usable(model, options)
        if runner is not None:
            if self._config.queue_policy == "strict" and runner.waiting >= self._config.max_queue:
                raise EngineError(503, BUSY_TEXT)
            runner.users += 1
            return runner, WARM_LOAD_S
        if self._loads_waiting >= self._config.max_queue:
            raise EngineError(503, BUSY_TEXT)
        self._loads_waiting += 1
        try:
            async with self._load_lock:
                return await self._load(model, options)
        finally:
            self._loads_waiting -= 1

    def release(self, runner: Runner, keep_alive_s: float) -> None:
        """One user less; the model stays for `keep_alive_s` (infinity: forever, 0: gone)."""
        runner.users -= 1
        runner.last_used = self._now()
        runner.expires_at = runner.last_used + keep_alive_s
        if runner.users == 0 and keep_alive_s <= 0:
            self.unload(runner)
        self._changed.set()

    def unload(self, runner: Runner) -> None:
        """Forget a runner; those who use it finish."""
        if self._runners.get(runner.model.name) is runner:
            del self._runners[runner.model.name]
            self._log("unload", runner.model.name)

    def _usable(self, model: MockModel, options: tuple[tuple[str, Any], ...]) -> Runner | None:
        self.loaded()
        runner = self._runners.get(model.name)
        return runner if runner is not None and runner.options == options else None

    async def _load(self, model: MockModel, options: tuple[tuple[str, Any], ...]) -> tuple[Runner, float]:
        while True:
            runner = self._usable(model, options)
            if runner is not None:
                runner.users += 1
                return runner, WARM_LOAD_S
            other = self._runners.get(model.name)
            if other is None and len(self._runners) < self._config.max_loaded_models:
                break
            # Only an idle model can go: the same one with other options, else the least recently used.
            idle = [runner for runner in self._runners.values() if runner.users == 0]
            victim = other if other is not None else min(idle, key=lambda runner: runner.last_used, default=None)
            if victim is not None and victim.users == 0:
                self.unload(victim)
                continue
            self._changed.clear()
            await self._changed.wait()
        timing = Timing(PROFILES[self._config.profile], model.size_bytes)
        self._log("load", model.name)
        await self._sleep(timing.load_s())
        parallel = self._config.num_parallel
        runner = Runner(
            model=model, options=options, slots=[Slot() for _ in range(parallel)], timing=timing,
            free=asyncio.Semaphore(parallel), expires_at=self._now() + self._config.keep_alive_s, users=1,
        )  # fmt: skip
        self._runners[model.name] = runner
        return runner, timing.load_s()
