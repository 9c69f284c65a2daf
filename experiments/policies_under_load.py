"""Six routing policies on one pool of unequal machines, from half to nearly all of its capacity.

A window of the Azure conversation trace is compressed to the offered load, so every policy meets the same requests, and
the bursts stay bursts. `python -m experiments.policies_under_load [--quick] [--seeds N] [--out DIR]`
"""

from __future__ import annotations

import sys
from itertools import combinations, pairwise

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments import harness, style
from sim.hardware import POOLS, profile
from sim.scenario import Scenario
from sim.sweep import Runs, compute_interval
from sim.workload import Workload

NAME = "policies_under_load"
QUESTION = "Does the order of routing policies by tail latency change as a heterogeneous pool fills up?"
POLICIES = ("random", "round-robin", "least-loaded", "power-of-two", "peak-ewma", "oracle")
LOADS = (0.5, 0.7, 0.9, 0.95)
MEASURES = (("ttft_s", 0.5), ("ttft_s", 0.99), ("e2e_s", 0.5), ("e2e_s", 0.99))
# Each provider is 14/20 requests per second: this window keeps 240 runs below 25 minutes on two cores.
PROVIDERS, GATEWAYS, TRACE_S, WARMUP_S = 20, 4, 360.0, 30.0
QUICK_PROVIDERS, QUICK_TRACE_S, QUICK_LOADS = 6, 40.0, (0.5, 0.95)


def compute_mean_capacity(providers: int, prompt_tokens: float, output_tokens: float) -> float:
    """Requests per second of an average pool; the pool of each seed is drawn around it (`World.compute_capacity`)."""
    shares = POOLS["consumer"]
    rates = []
    for name in shares:
        machine = profile(name)
        step_s = machine.step_s(machine.slots, prompt_tokens + output_tokens / 2)
        rates.append(1.0 / (machine.prefill_s(prompt_tokens) + output_tokens * step_s / machine.slots))
    return providers * float(np.average(rates, weights=list(shares.values())))


def scenarios(quick: bool = False) -> list[Scenario]:
    """Policies x loads. A run lasts as long as its load needs for the same requests, so quantiles compare like with like."""
    providers = QUICK_PROVIDERS if quick else PROVIDERS
    window = Workload.named("azure-conv", fallback=True).clip(QUICK_TRACE_S if quick else TRACE_S)
    capacity = compute_mean_capacity(providers, float(window.input_tokens.mean()), float(window.output_tokens.mean()))
    base = Scenario(
        name=NAME, providers=providers, gateways=2 if quick else GATEWAYS, workload=window, discovery="given", fallback=True,
        warmup_s=5.0 if quick else WARMUP_S,
    ).replace(epoch_ms=60_000)  # fmt: skip
    return [
        base.replace(policy=policy, load=load, duration_s=len(window) / (load * capacity))
        for load in (QUICK_LOADS if quick else LOADS)
        for policy in POLICIES
    ]


def summarise(runs: Runs) -> pd.DataFrame:
    """Columns policy, load, measure, estimate, low, high, n_seeds; measures like `ttft_s_p99`, and `lost_share`."""
    tables = []
    for column, q in MEASURES:
        table = runs.summary(column, q=q, by=["policy", "load"]).drop(columns="q")
        tables.append(table.assign(measure=f"{column}_p{round(q * 100)}"))
    rows = []
    shares = runs.summaries.assign(lost_share=lambda s: 1 - s["completed"] / s["requests"])
    for (policy, load), group in shares.groupby(["policy", "load"], sort=True):
        estimate, low, high = compute_interval(group["lost_share"].tolist())
        rows.append(
            {"policy": policy, "load": load, "estimate": estimate, "low": low, "high": high, "n_seeds": len(group)}
        )
    tables.append(pd.DataFrame(rows).assign(measure="lost_share"))
    return pd.concat(tables, ignore_index=True)


def find_crossings(runs: Runs, column: str = "ttft_s", q: float = 0.99) -> list[tuple[str, str, float, float]]:
    """(faster at the lower load, faster at the higher, lower load, higher load): differences paired by seed, both beyond noise."""
    frame = runs.requests
    warm_s = max(scenario.warmup_s for scenario in runs.scenarios)
    frame = frame[(frame["outcome"] == "completed") & (frame["arrived_s"] >= warm_s)]
    table = frame.groupby(["policy", "load", "seed"])[column].quantile(q).unstack("seed")
    crossings = []
    loads = sorted(frame["load"].unique())
    for one, other in combinations(sorted(frame["policy"].unique()), 2):
        signs = [_sign(table.loc[(one, load)] - table.loc[(other, load)]) for load in loads]
        # Loads where the two are level are passed over: a crossing lies between the clear ones around them.
        clear = [(load, sign) for load, sign in zip(loads, signs, strict=True) if sign]
        for (low, before), (high, after) in pairwise(clear):
            if before != after:
                crossings.append((one, other, low, high) if before < 0 else (other, one, low, high))
    return crossings


def _sign(differences: pd.Series) -> int:
    """-1 or +1 where the 95 % interval of the mean difference leaves out zero; else 0."""
    _, low, high = compute_interval(differences.dropna().tolist())
    return -1 if high < 0 else 1 if low > 0 else 0


def find(runs: Runs) -> str:
    """The order by p99 TTFT at the ends, and which pairs change places; nothing is taken from outside the rows."""
    frame = summarise(runs)
    p99 = frame[frame["measure"] == "ttft_s_p99"].set_index(["load", "policy"])["estimate"].unstack()
    orders = {load: row.sort_values() for load, row in p99.iterrows()}
    told = [
        f"At load {load:g} the order by p99 TTFT is {', '.join(f'{policy} {value:.1f} s' for policy, value in order.items())}."
        for load, order in ((min(orders), orders[min(orders)]), (max(orders), orders[max(orders)]))
    ]
    crossings = find_crossings(runs)
    if crossings:
        pairs = "; ".join(f"{late} passes {early} between {low:g} and {high:g}" for early, late, low, high in crossings)
        told.append(f"The order changes: {pairs} (paired by seed, 95 %, each pair on its own).")
    else:
        told.append(
            "No pair of policies changes places beyond the noise of the seeds (paired by seed, 95 %, each pair on its own)."
        )
    lost = frame[frame["measure"] == "lost_share"]["estimate"].max()
    told.append(f"At most {lost:.1%} of requests were not completed at any point.")
    return " ".join(told)


def figure(frame: pd.DataFrame) -> Figure:
    """Latencies over load, what was not completed beside them, and the rank of each policy by p99 TTFT."""
    fig, axes = style.subplots(2, 3, figsize=(12, 7.2))
    order = sorted(set(frame["policy"]), key=lambda policy: (*POLICIES, policy).index(policy))
    panels = {
        "ttft_s_p50": (axes[0, 0], "TTFT p50 (s)"), "ttft_s_p99": (axes[0, 1], "TTFT p99 (s)"),
        "e2e_s_p50": (axes[1, 0], "end-to-end p50 (s)"), "e2e_s_p99": (axes[1, 1], "end-to-end p99 (s)"),
        "lost_share": (axes[0, 2], "rejected, failed or unfinished (share)"),
    }  # fmt: skip
    for measure, (axis, title) in panels.items():
        style.draw_bands(axis, frame[frame["measure"] == measure], x="load", by="policy", order=order)
        axis.set_ylabel(title)
        if measure == "lost_share":
            # A t-interval does not know that a share is no less than 0.
            axis.set_ylim(bottom=0)
        else:
            axis.set_yscale("log")
    p99 = frame[frame["measure"] == "ttft_s_p99"].pivot(index="load", columns="policy", values="estimate")
    ranks = p99.rank(axis=1)
    for policy in order:
        axes[1, 2].plot(ranks.index, ranks[policy], marker="o", color=style.colour(policy), label=policy)
    axes[1, 2].set_ylabel("rank by TTFT p99 (1 is fastest)")
    axes[1, 2].invert_yaxis()
    for axis in axes.flat:
        axis.set_xlabel("offered load (share of the pool's capacity)")
    axes[0, 0].legend(fontsize=8)
    plt.close(fig)
    fig.suptitle(QUESTION, fontsize=11, x=0.01, ha="left")
    return fig


if __name__ == "__main__":
    harness.main(sys.modules[__name__])
