"""Readers of the published traces: Azure 2023, Mooncake, ServeGen.

Rules of this file: columns and rows are checked by `sim.data`; whatever a reader adds to the measured rows (where inside
a 3 s tick a Mooncake request arrived, every ServeGen draw) comes from a named substream and is said in `note`.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd

from quiver.errors import UsageError
from sim import data
from sim.rng import Substreams
from sim.workload import Workload

MOONCAKE_TICK_S = 3.0
SERVEGEN_WINDOW_S = 600.0
SERVEGEN_TOKENS_WINDOW_S = 21_600.0
SERVEGEN_MODELS = ("deepseek-r1", "m-large", "m-mid", "m-small")
_LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


def azure(kind: Literal["conv", "code"]) -> Workload:
    """Azure LLM inference trace 2023, conversation or coding; every row as measured."""
    if kind not in ("conv", "code"):
        raise UsageError(f"azure has the traces 'conv' and 'code', not {kind!r}")
    name = f"azure-{kind}"
    return Workload.from_frame(data.load(name), name=name, label="real", note=data.FILES[name].source)


def mooncake(*, seed: int = 0) -> Workload:
    """Mooncake conversation trace with its prefix blocks; arrivals are spread evenly at random inside their 3 s tick."""
    frame = data.load("mooncake")
    ticks, index, counts = np.unique(frame["arrival_s"].to_numpy(np.float64), return_inverse=True, return_counts=True)
    ends = np.append(ticks[1:], ticks[-1] + MOONCAKE_TICK_S)
    # A gap of more than one tick is silence, not a longer tick.
    widths = np.minimum(ends - ticks, MOONCAKE_TICK_S)
    draws = Substreams(seed).numpy("mooncake", "inside-tick").random(len(frame))
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    for start, count in zip(starts, counts, strict=True):
        draws[start : start + count].sort()
    frame["arrival_s"] = ticks[index] + widths[index] * draws
    return Workload.from_frame(
        frame, name="mooncake", label="real", span_s=float(ends[-1]),
        note=f"{data.FILES['mooncake'].source}; arrivals spread inside 3 s ticks",
    )  # fmt: skip


def servegen(
    model: str, *, start_s: float = 0.0, duration_s: float = 3600.0, share: float = 1.0, seed: int = 0
) -> Workload:
    """Requests drawn from ServeGen's per-client rates and token quantiles; label synthetic.

    For each client and 600 s window: rate x 600 x share gaps of the published Gamma or Weibull shape, rescaled to
    fill the window as ServeGen does. Clients without published token histograms borrow those of another client, drawn in
    proportion to its requests. `share` thins every client alike: m-mid has 1,790 requests a second.
    """
    if model not in SERVEGEN_MODELS:
        raise UsageError(f"ServeGen has the models {', '.join(SERVEGEN_MODELS)}, not {model!r}")
    rates = data.load(f"servegen-{model}")
    tokens = data.load("servegen-tokens")
    tokens = tokens[tokens["model"] == model]
    stop_s = start_s + duration_s
    window = rates[(rates["t_s"] > start_s - SERVEGEN_WINDOW_S) & (rates["t_s"] < stop_s)]
    if window.empty:
        raise UsageError(
            f"servegen {model}: no rates between {start_s:g} and {stop_s:g} s; the file covers 0 to "
            f"{rates['t_s'].max() + SERVEGEN_WINDOW_S:g} s"
        )
    rng = Substreams(seed).numpy("servegen", model)
    quantiles = _token_table(tokens)
    weights = rates.groupby("client")["rate_rps"].sum()
    known = [client for client in sorted(quantiles) if client in weights.index]
    chances = weights.loc[known].to_numpy() / weights.loc[known].sum()
    stand_in: dict[int, int] = {}
    parts: list[np.ndarray] = []
    columns = (window[column].tolist() for column in ("client", "t_s", "rate_rps", "pattern", "param1"))
    # The fraction of a request in `rate x 600` is a chance: rounding would silence clients below one request a window.
    for client, t_s, rate_rps, pattern, shape in zip(*columns, strict=True):
        times = t_s + _draw_window(rng, int(rate_rps * SERVEGEN_WINDOW_S * share + rng.random()), pattern, shape)
        times = times[(times >= start_s) & (times < stop_s)] - start_s
        if client not in quantiles:
            client = stand_in.setdefault(client, int(rng.choice(known, p=chances)))
        table = quantiles[client]
        at = min(int(t_s // SERVEGEN_TOKENS_WINDOW_S), len(table) - 1)
        lengths = [_draw_lengths(rng, levels, len(times)) for levels in table[at]]
        parts.append(np.column_stack([times, *lengths]))
    rows = np.concatenate(parts)
    rows = rows[np.argsort(rows[:, 0], kind="stable")]
    return Workload(
        name=f"servegen-{model}", label="synthetic", arrival_s=rows[:, 0].copy(), span_s=duration_s,
        input_tokens=rows[:, 1].astype(np.int64), output_tokens=rows[:, 2].astype(np.int64),
        note=f"drawn from the rates and token quantiles of {data.FILES['servegen-' + model].source}; share {share:g}",
    )  # fmt: skip


def _draw_window(rng: np.random.Generator, count: int, pattern: str, shape: float) -> np.ndarray:
    """(count,) float64 seconds into the window."""
    if count == 0:
        return np.empty(0)
    gaps: np.ndarray = rng.gamma(shape, 1.0, count + 1) if pattern == "Gamma" else rng.weibull(shape, count + 1)
    total = gaps.sum()
    if total <= 0.0:
        gaps, total = np.ones(count + 1), count + 1.0
    times: np.ndarray = np.cumsum(gaps)[:-1] * (SERVEGEN_WINDOW_S / total)
    return times


def _token_table(tokens: pd.DataFrame) -> dict[int, list[tuple[np.ndarray, np.ndarray]]]:
    """client -> for each 6 h window, (input quantiles, output quantiles) at `_LEVELS`."""
    inputs = [f"input_tokens_p{round(level * 100)}" for level in _LEVELS]
    outputs = [f"output_tokens_p{round(level * 100)}" for level in _LEVELS]
    table: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {}
    usable = tokens.dropna(subset=[*inputs, *outputs]).sort_values(["client", "t_s"])
    for client, a, b in zip(usable["client"], usable[inputs].to_numpy(), usable[outputs].to_numpy(), strict=True):
        table.setdefault(int(client), []).append((a, b))
    return table


def _draw_lengths(rng: np.random.Generator, quantiles: np.ndarray, count: int) -> np.ndarray:
    """Log-linear between the published quantiles, flat outside p5 and p99."""
    logs = np.log(np.maximum(quantiles, 1.0))
    lengths: np.ndarray = np.maximum(1, np.rint(np.exp(np.interp(rng.random(count), _LEVELS, logs))))
    return lengths
