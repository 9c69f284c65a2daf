"""Figures by their content: units, captions, colours, and what they refuse to draw."""

from __future__ import annotations

import warnings

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from matplotlib.figure import Figure

from quiver.errors import UsageError
from sim.plot import COLOURS, GROUPS_MAX, Plotter, assign_colours, describe_runs, label

NOTE = "Simulated; synthetic data; frames sized; 2 seeds."


def make_rows(policies=("random", "mine"), loads=(0.5, 0.9), seeds=(1, 2), lost=3):
    rows = []
    for policy in policies:
        for load in loads:
            for seed in seeds:
                for number in range(20):
                    ttft_s = 0.1 * (number + 1) * (1 + seed / 10) * load
                    outcome = "rejected" if number < lost else "completed"
                    rows.append(
                        {"policy": policy, "load": load, "seed": seed, "arrived_s": float(number), "ttft_s": ttft_s,
                         "outcome": outcome}
                    )  # fmt: skip
    return pd.DataFrame(rows)


def caption(figure: Figure) -> str:
    return figure.get_supxlabel().replace("\n", " ")


@pytest.fixture
def plotter() -> Plotter:
    return Plotter(make_rows(), note=NOTE, swept=["policy", "load"])


def test_a_cdf_counts_completed_requests_and_spans_the_seeds(plotter):
    figure = plotter.cdf("ttft_s")
    axes = figure.axes[0]
    assert axes.get_xlabel() == "time to first token (seconds)" and axes.get_xscale() == "log"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["mine", "random"]
    assert "136 completed of 160 requests" in caption(figure) and NOTE in caption(figure)
    assert len(axes.collections) == 2
    # The mean of both seeds' largest values: 0.1 * 20 * load 0.9 * (1.1 + 1.2) / 2.
    assert axes.lines[0].get_xdata()[-1] == pytest.approx(2.07)


def test_a_figure_says_what_it_mixes(plotter):
    assert "mixes runs that differ in load" in caption(plotter.cdf("ttft_s"))
    assert "mixes" not in caption(plotter.bands("ttft_s", x="load"))
    assert "mixes" not in caption(Plotter(make_rows(loads=(0.5,)), swept=["policy"]).cdf("ttft_s"))


def test_bands_show_estimates_over_what_was_swept(plotter):
    figure = plotter.bands("ttft_s", x="load", q=0.5)
    axes = figure.axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("load", "p50 of time to first token (seconds)")
    assert axes.lines[0].get_xdata().tolist() == [0.5, 0.9]
    # Numbers 3..19 are completed, the median is number 11: 1.2 * load * 1.15.
    assert axes.lines[0].get_ydata().tolist() == pytest.approx([0.69, 1.242])
    assert axes.get_yscale() == "log" and axes.get_ylim()[0] > 0
    assert "95 % t-intervals. " in caption(figure)


def test_a_band_that_reaches_below_zero_is_cut_and_says_so():
    rows = make_rows()
    figure = Plotter(rows.assign(ttft_s=rows["ttft_s"] * rows["seed"])).bands("ttft_s", x="load", q=0.5)
    assert figure.axes[0].get_yscale() == "log" and figure.axes[0].get_ylim()[0] > 0
    assert "95 % t-intervals, cut at the lower edge" in caption(figure)


def test_outcomes_add_up_to_one_bar_a_group(plotter):
    axes = plotter.outcomes().axes[0]
    widths = [patch.get_width() for patch in axes.patches]
    assert widths == pytest.approx([0.85, 0.85, 0.15, 0.15])
    assert [text.get_text() for text in axes.texts] == ["85.0% completed"] * 2


def test_over_time_shows_median_and_tail(plotter):
    figure = plotter.over_time(bins=4)
    lines = figure.axes[0].lines
    assert len(lines) == 4 and all((lines[n].get_ydata() <= lines[n + 1].get_ydata()).all() for n in (0, 2))
    assert "arrived within 4.75 s" in caption(figure)


def test_a_policy_has_one_colour_in_every_figure():
    alone, among = assign_colours(["random"], "policy"), assign_colours(["mine", "oracle", "random", "yours"], "policy")
    assert alone["random"] == among["random"] == COLOURS[0]
    assert among["oracle"] == "#000000"
    assert len(set(among.values())) == 4


@pytest.mark.parametrize(
    ("draw", "complaint"),
    [
        (lambda p: p.cdf("ttft"), "no column 'ttft' to plot; there are: policy, load"),
        (lambda p: p.cdf("ttft_s", by="machine"), "no column 'machine'"),
        (lambda p: p.cdf("ttft_s", by="arrived_s"), f"gives 20 lines, at most {GROUPS_MAX}"),
    ],
)
def test_what_can_not_be_drawn_is_refused(plotter, draw, complaint):
    with pytest.raises(UsageError, match=complaint):
        draw(plotter)


def test_without_a_completed_request_only_outcomes_are_drawn():
    nothing = Plotter(make_rows(lost=20))
    with pytest.raises(UsageError, match="no request was completed"):
        nothing.cdf("ttft_s")
    assert [text.get_text() for text in nothing.outcomes().axes[0].texts] == ["0.0% completed"] * 2


def test_every_figure_can_be_saved_and_is_closed(plotter, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for figure in (
            plotter.cdf("ttft_s"),
            plotter.bands("ttft_s", x="load"),
            plotter.outcomes(),
            plotter.over_time(),
        ):
            figure.savefig(tmp_path / "figure.png")
    assert plt.get_fignums() == []


def test_labels_carry_units():
    assert label("paid_credits") == "paid (credits)"
    assert label("prompt_tokens") == "prompt (tokens)"
    assert label("attempts") == "attempts"


def test_the_note_names_every_fidelity_there_was():
    base = {"seed": 1, "data": "real", "fidelity": {"frames": "sized", "chunks": "token"}}
    other = {"seed": 2, "data": "synthetic", "fidelity": {"frames": "encoded", "chunks": "token"}}
    assert describe_runs([base]) == "Simulated; real data; frames sized, chunks token; 1 seed."
    assert describe_runs([base, other]) == (
        "Simulated; real and synthetic data; frames encoded and sized, chunks token; 2 seeds."
    )
