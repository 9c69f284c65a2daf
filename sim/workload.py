"""A workload: when requests arrive, how long their prompts and answers are, and which prefix blocks they share.

Rules of this file: a workload is immutable; every method returns a new one and says in `note` what it did. `label` is
"real" only while every row was measured; anything drawn from a distribution is "synthetic". Readers of the published
traces are in `sim.traces`, the fitted stand-ins in `sim.twins`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import pandas as pd

from quiver.errors import UsageError
from sim.rng import Substreams

Label = Literal["real", "synthetic"]
Prefix = tuple[tuple[int, ...], ...]

REQUESTS_MAX = 5_000_000
"Rows of one workload: a trace of more would not fit the memory of a laptop beside its simulation."


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Workload:
    """Requests in order of arrival.

    Examples
    --------
    >>> Workload.named("azure-conv", fallback=True).at_rate(2.0).clip(60.0).input_tokens.dtype
    dtype('int64')
    """

    name: str
    label: Label
    arrival_s: np.ndarray
    "(n,) float64, seconds since the start, not decreasing."
    input_tokens: np.ndarray
    "(n,) int64, at least 1."
    output_tokens: np.ndarray
    "(n,) int64, at least 1."
    span_s: float
    "Length of the observation, at least the last arrival."
    prefix: Prefix | None = None
    "Ids of shared 512-token blocks per request, first block first; None where the trace does not say."
    note: str = ""
    "Source, and what was done to it."
    _checksum: list[str] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        count = len(self.arrival_s)
        if not count == len(self.input_tokens) == len(self.output_tokens):
            raise UsageError(f"workload {self.name}: columns of different lengths")
        if count > REQUESTS_MAX:
            raise UsageError(
                f"workload {self.name}: {count} requests, at most {REQUESTS_MAX}; clip it or lower its rate"
            )
        if self.prefix is not None and len(self.prefix) != count:
            raise UsageError(f"workload {self.name}: {len(self.prefix)} prefixes for {count} requests")
        if count and (self.arrival_s[0] < 0 or not np.all(np.diff(self.arrival_s) >= 0)):
            raise UsageError(f"workload {self.name}: arrival_s must start at 0 or later and not decrease")
        if count and (self.input_tokens.min() < 1 or self.output_tokens.min() < 1):
            raise UsageError(f"workload {self.name}: input_tokens and output_tokens must be at least 1")
        if not math.isfinite(self.span_s) or self.span_s < (self.arrival_s[-1] if count else 0.0):
            raise UsageError(f"workload {self.name}: span_s {self.span_s} ends before the last arrival")
        for array in (self.arrival_s, self.input_tokens, self.output_tokens):
            array.flags.writeable = False

    @classmethod
    def from_frame(
        cls, frame: pd.DataFrame, *, name: str = "frame", label: Label = "synthetic", span_s: float | None = None,
        note: str = "",
    ) -> Workload:  # fmt: skip
        """Columns arrival_s, input_tokens, output_tokens and optionally block_hashes (space-separated ids)."""
        missing = [column for column in ("arrival_s", "input_tokens", "output_tokens") if column not in frame.columns]
        if missing:
            raise UsageError(
                f"workload {name}: the frame lacks {', '.join(missing)}; it has {', '.join(map(str, frame))}"
            )
        columns = frame[["arrival_s", "input_tokens", "output_tokens"]].apply(pd.to_numeric, errors="coerce")
        bad = columns.isna().any(axis=1)
        if bad.any():
            raise UsageError(f"workload {name}: row {int(np.argmax(bad.to_numpy()))} is not numeric")
        prefix = None
        if "block_hashes" in frame.columns:
            prefix = tuple(tuple(map(int, str(ids).split())) for ids in frame["block_hashes"].fillna(""))
        arrival = columns["arrival_s"].to_numpy(np.float64, copy=True)
        last = float(arrival[-1]) if len(arrival) else 0.0
        return cls(
            name=name, label=label, arrival_s=arrival, input_tokens=columns["input_tokens"].to_numpy(np.int64, copy=True),
            output_tokens=columns["output_tokens"].to_numpy(np.int64, copy=True),
            span_s=last if span_s is None else span_s, prefix=prefix, note=note,
        )  # fmt: skip

    @classmethod
    def named(cls, name: str, *, fallback: bool = False, seed: int = 0) -> Workload:
        """azure-conv, azure-code, mooncake, servegen-MODEL; with `fallback`, the synthetic twin if the data is missing."""
        from sim.named_workloads import make_workload  # it reads Workloads, so it imports this file

        return make_workload(name, seed=seed, fallback=fallback)

    def __len__(self) -> int:
        return len(self.arrival_s)

    @property
    def rate_rps(self) -> float:
        """Mean arrivals per second over the span."""
        return len(self) / self.span_s if self.span_s > 0 else 0.0

    @property
    def gap_cv(self) -> float:
        """Coefficient of variation of the gaps between arrivals; nan below three requests."""
        gaps = np.diff(self.arrival_s)
        return float(gaps.std() / gaps.mean()) if len(gaps) > 1 and gaps.mean() > 0 else math.nan

    def checksum(self) -> str:
        """SHA-256 (hex) of label and all rows: part of a scenario's hash."""
        if not self._checksum:
            digest = hashlib.sha256(f"{self.label}\0{self.span_s!r}\0".encode())
            for array, kind in ((self.arrival_s, "<f8"), (self.input_tokens, "<i8"), (self.output_tokens, "<i8")):
                digest.update(array.astype(kind).tobytes())
            digest.update(b"" if self.prefix is None else repr(self.prefix).encode())
            self._checksum.append(digest.hexdigest())
        return self._checksum[0]

    def frame(self) -> pd.DataFrame:
        """arrival_s, input_tokens, output_tokens, data (the label)."""
        return pd.DataFrame({
            "arrival_s": self.arrival_s, "input_tokens": self.input_tokens, "output_tokens": self.output_tokens,
            "data": self.label,
        })  # fmt: skip

    def prefix_hashes(self, index: int) -> tuple[bytes, ...]:
        """Block ids of one request as 8-byte hashes, for `InferenceRequest.prefix_hashes`."""
        if self.prefix is None:
            return ()
        return tuple((block % 2**64).to_bytes(8, "big") for block in self.prefix[index])

    def clip(self, duration_s: float) -> Workload:
        """The requests of the first `duration_s` seconds."""
        if duration_s <= 0:
            raise UsageError(f"clip to {duration_s} s: the duration must be positive")
        keep = int(np.searchsorted(self.arrival_s, duration_s, side="left"))
        return self._take(slice(keep), span_s=min(self.span_s, duration_s), note=f"first {duration_s:g} s")

    def scaled(self, factor: float, *, method: Literal["compress", "superpose"] = "compress") -> Workload:
        """`factor` times the rate, with the lengths and their order unchanged.

        compress   divides all times by `factor`: the shape of the arrival process (CV and order of gaps, bursts, trend)
                   is kept exactly, the span shrinks by `factor`; follow with `lasting` to fill a longer run.
        superpose  adds copies shifted around the span by equal parts (the last one thinned evenly): keeps the span, and
                   smooths bursts as more independent users would (the CV of gaps tends to 1).
        """
        if not math.isfinite(factor) or factor <= 0:
            raise UsageError(f"cannot scale a workload by {factor}: the factor must be positive")
        if method == "superpose":
            return self._superposed(factor)
        return replace(
            self, arrival_s=self.arrival_s / factor, span_s=self.span_s / factor, _checksum=[],
            note=f"{self.note}; time compressed x{factor:g}",
        )  # fmt: skip

    def at_rate(self, rate_rps: float, *, method: Literal["compress", "superpose"] = "compress") -> Workload:
        """Scaled to a mean of `rate_rps` arrivals per second."""
        if not len(self) or self.span_s <= 0:
            raise UsageError(f"workload {self.name} is empty: it has no rate to scale")
        return self.scaled(rate_rps / self.rate_rps, method=method)

    def lasting(self, duration_s: float) -> Workload:
        """Exactly `duration_s` seconds: repeated end to end as often as needed, then clipped. A repetition has new prefixes."""
        if self.span_s <= 0:
            raise UsageError(f"workload {self.name} has no span to repeat")
        times = max(1, math.ceil(duration_s / self.span_s))
        if times == 1:
            return self.clip(duration_s)
        whole = self._joined([self.arrival_s + copy * self.span_s for copy in range(times)], span_s=times * self.span_s)
        return replace(whole, note=f"{self.note}; repeated {times} times", _checksum=[]).clip(duration_s)

    def _superposed(self, factor: float) -> Workload:
        whole, part = divmod(factor, 1.0)
        copies = int(whole) + (part > 0)
        arrivals = [(self.arrival_s + self.span_s * copy / copies) % self.span_s for copy in range(copies)]
        kept = np.arange(len(self))
        if part:
            # Keep every row whose running share crosses an integer: an even thinning without a draw.
            kept = np.flatnonzero(np.floor((kept + 1) * part) > np.floor(kept * part))
        joined = self._joined(arrivals, span_s=self.span_s, last_rows=kept)
        return replace(joined, note=f"{self.note}; {factor:g} shifted copies superposed", _checksum=[])

    def _joined(
        self, arrivals: Sequence[np.ndarray], *, span_s: float, last_rows: np.ndarray | None = None
    ) -> Workload:
        rows = [np.arange(len(self)) for _ in arrivals]
        if last_rows is not None:
            rows[-1] = last_rows
        arrival = np.concatenate([times[row] for times, row in zip(arrivals, rows, strict=True)])
        copy = np.concatenate([np.full(len(row), index) for index, row in enumerate(rows)])
        row = np.concatenate(rows)
        order = np.argsort(arrival, kind="stable")
        prefix = None
        if self.prefix is not None:
            offset = 1 + max((max(blocks) for blocks in self.prefix if blocks), default=0)
            prefix = tuple(tuple(b + int(copy[at]) * offset for b in self.prefix[row[at]]) for at in order)
        return replace(
            self, arrival_s=np.minimum(arrival[order], span_s), input_tokens=self.input_tokens[row[order]],
            output_tokens=self.output_tokens[row[order]], prefix=prefix, span_s=span_s, _checksum=[],
        )  # fmt: skip

    def _take(self, rows: slice, *, span_s: float, note: str) -> Workload:
        return replace(
            self, arrival_s=self.arrival_s[rows].copy(), input_tokens=self.input_tokens[rows].copy(),
            output_tokens=self.output_tokens[rows].copy(), prefix=None if self.prefix is None else self.prefix[rows],
            span_s=span_s, note=f"{self.note}; {note}", _checksum=[],
        )  # fmt: skip


def poisson(
    *, rate_rps: float, duration_s: float, input_tokens: int = 512, output_tokens: int = 128, seed: int = 0
) -> Workload:
    """Poisson arrivals with constant lengths: the workload of queueing theory, for checks by hand."""
    rng = Substreams(seed).numpy("workload", "poisson")
    arrival = np.sort(rng.uniform(0.0, duration_s, rng.poisson(rate_rps * duration_s)))
    return Workload(
        name="poisson", label="synthetic", arrival_s=arrival, span_s=duration_s,
        input_tokens=np.full(len(arrival), input_tokens, np.int64),
        output_tokens=np.full(len(arrival), output_tokens, np.int64), note=f"Poisson {rate_rps:g}/s",
    )  # fmt: skip
