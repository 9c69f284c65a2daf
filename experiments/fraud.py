"""How many cheats are found, and how many honest providers are blamed, by each fraud detector over accepted receipts.

One pool holds them all: providers that count too many tokens, that sell an old answer again, that offer more speed than they have,
and a ring that signs for its own inventions. `python -m experiments.fraud [--quick] [--seeds N] [--out DIR]`
"""

from __future__ import annotations

import sys

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from experiments import harness, style
from sim.adversary_providers import Boaster, Overreporter, Reseller
from sim.adversary_wash import WashRing
from sim.plot import COLOURS
from sim.scenario import Scenario
from sim.sweep import Runs, compute_interval

NAME = "fraud"
QUESTION = "Which cheats do the receipts alone give away, and at what price for the honest?"
# Which adversary each detector is for. Overlap is for whoever invents work: a ring, and who counts too much.
TARGETS = {
    "speed": ("over-report",), "tokens": ("over-report",), "replay": ("resell",), "boast": ("boast",),
    "self-dealing": ("wash",), "overlap": ("wash", "over-report"), "amount": (), "equivocation": (),
}  # fmt: skip
# (tokens counted for each one made, seconds between two inventions of a ring's provider), from shy to bold.
LEVELS = ((1.25, 20.0), (1.5, 10.0), (2.0, 5.0), (3.0, 2.5))
SHOWN_LEVEL = 2
PROVIDERS, GATEWAYS, DURATION_S, LOAD, SHARE = 40, 6, 300.0, 0.3, 0.1
QUICK_PROVIDERS, QUICK_DURATION_S = 12, 60.0


def scenarios(quick: bool = False) -> list[Scenario]:
    """One a level of boldness; everything else is the same."""
    base = Scenario(
        name=NAME, providers=QUICK_PROVIDERS if quick else PROVIDERS, gateways=2 if quick else GATEWAYS,
        duration_s=QUICK_DURATION_S if quick else DURATION_S, load=LOAD, discovery="given", fallback=True, detectors="all",
    ).replace(epoch_ms=60_000, receipt_every_tokens=64)  # fmt: skip
    return [
        base.replace(
            adversary=(
                Overreporter(share=SHARE, factor=factor), Reseller(share=SHARE), Boaster(share=SHARE),
                WashRing(share=SHARE, every_s=every_s),
            )
        )
        for factor, every_s in ((LEVELS[SHOWN_LEVEL],) if quick else LEVELS)
    ]  # fmt: skip


def find_flagged(evidence: pd.DataFrame) -> pd.DataFrame:
    """One row a provider and detector: whether any witness suspects it, and what it plays."""
    flagged = evidence.groupby(["provider", "detector"], as_index=False).agg(
        suspicious=("suspicious", "any"), adversary=("adversary", "first")
    )
    flagged["meant"] = [
        any(kind in TARGETS[detector] for kind in played.split("+"))
        for detector, played in zip(flagged["detector"], flagged["adversary"], strict=True)
    ]
    return flagged


def summarise(runs: Runs) -> pd.DataFrame:
    """Columns factor, every_s, detector, measure, estimate, low, high, n_seeds.

    `recall`: of the cheats a detector is for, those flagged. `precision`: of the flagged, those it is for. `blamed`: of the
    providers that play nothing, those flagged. A run in which a share has no denominator does not count for it.
    """
    shares: dict[tuple[float, float, str, str], list[float]] = {}
    for scenario, result in zip(runs.scenarios, runs.results, strict=True):
        factor = next(plug.factor for plug in scenario.adversary_plugs if isinstance(plug, Overreporter))
        every_s = next(plug.every_s for plug in scenario.adversary_plugs if isinstance(plug, WashRing))
        flagged = find_flagged(result.evidence)
        for detector, rows in flagged.groupby("detector"):
            meant, suspicious, honest = rows["meant"], rows["suspicious"], rows["adversary"] == ""
            for measure, hits, of in (
                ("recall", meant & suspicious, meant), ("precision", meant & suspicious, suspicious),
                ("blamed", honest & suspicious, honest),
            ):  # fmt: skip
                if of.any():
                    shares.setdefault((factor, every_s, str(detector), measure), []).append(hits.sum() / of.sum())
    rows = []
    for (factor, every_s, detector, measure), values in sorted(shares.items()):
        estimate, low, high = compute_interval(values)
        rows.append({"factor": factor, "every_s": every_s, "detector": detector, "measure": measure, "estimate": estimate,
                     "low": low, "high": high, "n_seeds": len(values)})  # fmt: skip
    return pd.DataFrame(rows)


def find(runs: Runs) -> str:
    """Recall and precision of each detector at the shown level."""
    frame = summarise(runs)
    factor, every_s = LEVELS[SHOWN_LEVEL]
    table = frame[frame["factor"] == factor].pivot(index="detector", columns="measure", values="estimate")
    told = []
    for detector in (name for name, targets in TARGETS.items() if targets):
        row = table.reindex(columns=["recall", "precision", "blamed"]).loc[detector]
        precision = "flags nobody" if pd.isna(row["precision"]) else f"{row['precision']:.0%} of its flags are right"
        told.append(f"{detector} finds {row['recall']:.0%}, {precision}")
    blamed = table["blamed"].max()
    return (
        f"With tokens counted {factor:g} times and a ring that invents an answer every {every_s:g} s a provider: {'; '.join(told)}. "
        f"No detector blames more than {blamed:.1%} of the honest providers."
    )


def figure(frame: pd.DataFrame) -> Figure:
    """Recall and precision by detector, and recall over how bold the cheats are."""
    fig, (bars, lines) = style.subplots(1, 2, figsize=(12, 4.6))
    factor, every_s = LEVELS[SHOWN_LEVEL]
    shown = frame[frame["factor"] == factor]
    names = [name for name, targets in TARGETS.items() if targets]
    for number, measure in enumerate(("recall", "precision", "blamed")):
        rows = shown[shown["measure"] == measure].set_index("detector").reindex(names)
        # A t-interval does not know that a share lies between 0 and 1.
        errors = [rows["estimate"] - rows["low"].clip(0, 1), rows["high"].clip(0, 1) - rows["estimate"]]
        bars.bar(
            [at + 0.27 * (number - 1) for at in range(len(names))], rows["estimate"], width=0.25, yerr=errors,
            color=COLOURS[number], label={"blamed": "honest providers flagged"}.get(measure, measure), capsize=2,
        )  # fmt: skip
    bars.set_xticks(range(len(names)), names)
    bars.set_ylabel("share")
    bars.set_xlabel(f"detector ({factor:g} tokens counted for one; a ring invents every {every_s:g} s)")
    bars.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
    for number, detector in enumerate(("tokens", "speed", "self-dealing")):
        rows = frame[(frame["detector"] == detector) & (frame["measure"] == "recall")].sort_values("factor")
        lines.plot(rows["factor"], rows["estimate"], marker="o", color=COLOURS[number], label=detector)
        lines.fill_between(
            rows["factor"], rows["low"].clip(0, 1), rows["high"].clip(0, 1), color=COLOURS[number], alpha=0.1
        )
    lines.set_xlabel("tokens counted for each token made (factor); the ring invents every 20, 10, 5, 2.5 s")
    lines.set_ylabel("recall (share of the cheats it is for)")
    lines.set_ylim(-0.02, 1.05)
    lines.legend(fontsize=8)
    plt.close(fig)
    fig.suptitle(QUESTION, fontsize=11, x=0.01, ha="left")
    return fig


if __name__ == "__main__":
    harness.main(sys.modules[__name__])
