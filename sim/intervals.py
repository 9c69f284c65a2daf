"""Statistics over replications: 95 % t-intervals of a mean over seeds, and differences paired by seed.

Rules of this file: bands are over seeds, never over the requests of one run; runs of different scenarios never share a group.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from quiver.errors import UsageError

# Two-sided 95 % quantiles of Student's t for 1 to 30 degrees of freedom; beyond, the normal's 1.96.
_T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
        2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042)  # fmt: skip


def compute_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """(mean, low, high): 95 % t-interval of the mean over replications; low and high are NaN for one value."""
    array = np.asarray([value for value in values if value is not None and not np.isnan(value)], dtype=float)
    if not len(array):
        return float("nan"), float("nan"), float("nan")
    mean = float(array.mean())
    if len(array) == 1:
        return mean, float("nan"), float("nan")
    t = _T95[len(array) - 2] if len(array) <= 31 else 1.96
    half = t * float(array.std(ddof=1)) / len(array) ** 0.5
    return mean, mean - half, mean + half


def check_columns(requests: pd.DataFrame, column: str, *by: str) -> None:
    """`UsageError` unless `column` holds numbers and all exist."""
    for name in (column, *by):
        if name not in requests:
            raise UsageError(
                f"no column {name!r}; there are: {', '.join(requests.columns)} (docs/metrics.md, and what was swept)"
            )
    if not pd.api.types.is_numeric_dtype(requests[column]):
        raise UsageError(f"column {column!r} holds no numbers: it has no quantiles")


def compute_per_seed(requests: pd.DataFrame, column: str, q: float, by: Sequence[str]) -> pd.Series:
    """The q-quantile of completed requests per group and seed; index levels are `by`, then seed."""
    check_columns(requests, column, *by)
    if not 0 <= q <= 1:
        raise UsageError(f"q is a quantile from 0 to 1, not {q}")
    completed = requests[requests["outcome"] == "completed"]
    return completed.groupby([*by, "seed"], sort=True)[column].quantile(q)


def summarise(requests: pd.DataFrame, column: str, qs: Sequence[float], by: Sequence[str]) -> pd.DataFrame:
    """Columns `by`, q, estimate, low, high, n_seeds."""
    rows = []
    for q in qs:
        for key, values in compute_per_seed(requests, column, q, by).groupby(level=list(by), sort=True):
            estimate, low, high = compute_interval(values.tolist())
            named = dict(zip(by, key if isinstance(key, tuple) else (key,), strict=True))
            rows.append(named | {"q": q, "estimate": estimate, "low": low, "high": high, "n_seeds": len(values)})
    return pd.DataFrame(rows, columns=[*by, "q", "estimate", "low", "high", "n_seeds"])


def compare(
    requests: pd.DataFrame, column: str, q: float, by: str, baseline: Any, within: Sequence[str]
) -> pd.DataFrame:
    """Difference to the baseline seed by seed; one row a value of `by` and of `within`."""
    table = compute_per_seed(requests, column, q, [*within, by]).unstack(level=by)
    if baseline not in table:
        raise UsageError(f"no {by} is called {baseline!r}; there are: {', '.join(map(str, table.columns))}")
    rows = []
    groups = table.groupby(level=list(within), sort=True) if within else [((), table)]
    for key, group in groups:
        named = dict(zip(within, key if isinstance(key, tuple) else (key,), strict=True))
        for other in table.columns.drop(baseline):
            differences = (group[other] - group[baseline]).dropna()
            estimate, low, high = compute_interval(differences.tolist())
            rows.append(
                named | {by: other, "difference": estimate, "low": low, "high": high, "n_seeds": len(differences)}
            )
    return pd.DataFrame(rows, columns=[*within, by, "difference", "low", "high", "n_seeds"])
