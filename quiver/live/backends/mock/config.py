"""What a mock engine pretends to be: its models, its hardware and its faults.

Hardware profiles are for an 8B model in Q4_K_M, 4.9 GB. Anchors: the llama.cpp table of XiongjieDai's
GPU-Benchmarks-on-LLM-Inference for gpu-3090, gpu-4090 and apple-m2-ultra; the others are estimates, never quote them.
"""

from __future__ import annotations

import hashlib
from enum import StrEnum
from typing import Literal

import msgspec

from quiver.errors import UsageError

REFERENCE_BYTES = 4_900_000_000
"Size of the model the profiles were fitted to; speed is taken as inverse to size."


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """Timing of one kind of hardware; see `timing`."""

    prefill_tps: float
    prefill_quadratic_s: float
    "Seconds per squared prompt token: attention."
    decode_tps: float
    "One stream, empty context."
    context_s: float
    "Seconds added to each token per token of context."
    batch_slowdown: float
    "Part of a token's time added by each further stream."
    load_s: float
    sigma: float = 0.05
    "Of the log-normal noise on a token's time."


def _profile(
    prefill_tps: float, prefill_quadratic_s: float, decode_tps: float, context_s: float, batch: float, load_s: float
) -> Profile:
    return Profile(
        prefill_tps=prefill_tps, prefill_quadratic_s=prefill_quadratic_s, decode_tps=decode_tps, context_s=context_s,
        batch_slowdown=batch, load_s=load_s, sigma=0.2 if decode_tps < 20 else 0.05,
    )  # fmt: skip


PROFILES = {
    "cpu-2core": _profile(70, 2e-6, 4.8, 5e-6, 0.5, 8.0),
    "cpu-desktop": _profile(130, 1e-6, 11, 3e-6, 0.7, 4.0),
    "gpu-3090": _profile(4200, 1.9e-8, 118, 7.2e-7, 0.15, 3.0),
    "gpu-4090": _profile(7500, 1.4e-8, 132, 3.6e-7, 0.15, 2.5),
    "gpu-a100-80": _profile(5500, 1e-8, 130, 3e-7, 0.10, 4.0),
    "gpu-h100": _profile(9000, 8e-9, 190, 2e-7, 0.08, 4.0),
    "apple-m2-ultra": _profile(1000, 1.2e-9, 81, 1.5e-6, 0.3, 3.0),
}


class MockModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model that is, or could be, on the mock's disk."""

    name: str
    size_bytes: int = REFERENCE_BYTES
    digest: str = ""
    "64 hex digits; empty takes SHA-256 of the name."
    context_tokens: int = 4096
    on_disk: bool = True
    "False: only `/api/pull` finds it."

    @property
    def digest_hex(self) -> str:
        """The content digest that clients see."""
        return self.digest or hashlib.sha256(self.name.encode()).hexdigest()


class FaultKind(StrEnum):
    """How an engine breaks. `at` is the token before which it happens."""

    HANG = "hang"
    "Nothing is sent, not even headers, until released or the client leaves."
    STALL = "stall"
    "The stream stops before token `at`, until released or the client leaves."
    CUT = "cut"
    "The connection breaks before token `at`."
    END = "end"
    "The body ends cleanly before token `at`, without its last line."
    ERROR = "error"
    "An error line before token `at`, then the end."
    CRASH = "crash"
    "HTTP 500 before the first byte; the model must be loaded again."
    MALFORMED = "malformed"
    "A line that is not JSON after token `at`."
    OVERCOUNT = "overcount"
    "eval_count is `at` too high."
    FLIP = "flip"
    "One bit of token `at` is wrong."
    TRICKLE = "trickle"
    "Every byte is sent on its own."


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """One fault of one request."""

    kind: FaultKind
    at: int = 1

    @classmethod
    def parse(cls, text: str) -> Fault:
        """`kind` or `kind:at`, as in the header `x-mock-fault`."""
        kind, _, at = text.partition(":")
        try:
            return cls(kind=FaultKind(kind.strip()), at=int(at or 1))
        except ValueError:
            raise UsageError(
                f"{text!r} is not a fault: use KIND or KIND:AT with one of {', '.join(FaultKind)}"
            ) from None


class MockConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A mock engine. Defaults are Ollama's own where it has one."""

    models: tuple[MockModel, ...] = (MockModel(name="mock:latest"),)
    profile: str = "gpu-4090"
    speed: float = 0.0
    "Modelled seconds per real second; 0 never sleeps, while reported durations still follow the model."
    num_parallel: int = 1
    max_loaded_models: int = 3
    max_queue: int = 512
    queue_policy: Literal["ollama", "strict"] = "ollama"
    "`ollama` bounds only requests that wait for a load; `strict` bounds all that wait."
    keep_alive_s: float = 300.0
    answer_tokens: tuple[int, int] = (16, 96)
    "Where an answer ends by itself: drawn evenly from this range."
    p_diverge: float = 0.0
    "Chance per token that this engine leaves the text others would write: honest hardware does."
    seed: int = 0
    "Of noise and divergence."

    def __post_init__(self) -> None:
        if self.profile not in PROFILES:
            raise UsageError(f"no hardware profile {self.profile!r}: use one of {', '.join(PROFILES)}")
        if self.speed < 0 or self.num_parallel < 1 or self.max_loaded_models < 1:
            raise UsageError("speed must be 0 or more; num_parallel and max_loaded_models at least 1")
        if not 1 <= self.answer_tokens[0] <= self.answer_tokens[1]:
            raise UsageError(f"answer_tokens {self.answer_tokens} must be a rising pair of at least 1")
