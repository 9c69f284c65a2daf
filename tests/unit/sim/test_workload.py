"""Workloads: transformations by hand, twins against the published figures, readers on the real data where it is present."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from quiver.errors import UsageError
from sim import data, traces, twins
from sim.data import DataMissing
from sim.workload import Workload, poisson

HERE = {row.name for row in data.status() if row.state in {"ok", "converted"}}


def make(arrivals: list[float], **options: object) -> Workload:
    count = len(arrivals)
    frame = pd.DataFrame({"arrival_s": arrivals, "input_tokens": range(1, count + 1), "output_tokens": [1] * count})
    if "blocks" in options:
        frame["block_hashes"] = options.pop("blocks")
    return Workload.from_frame(frame, **options)  # type: ignore[arg-type]


def test_compressing_keeps_the_shape_and_divides_the_span():
    work = make([0.0, 1.0, 4.0], span_s=10.0).scaled(10.0)
    assert work.arrival_s.tolist() == [0.0, 0.1, 0.4]
    assert work.span_s == 1.0 and work.rate_rps == pytest.approx(3.0)
    assert work.gap_cv == pytest.approx(make([0.0, 1.0, 4.0]).gap_cv)
    assert "compressed x10" in work.note


def test_superposing_keeps_the_span_and_shifts_each_copy():
    work = make([0.0, 1.0, 4.0], span_s=10.0).scaled(2.0, method="superpose")
    assert work.arrival_s.tolist() == [0.0, 1.0, 4.0, 5.0, 6.0, 9.0]
    assert work.input_tokens.tolist() == [1, 2, 3, 1, 2, 3]
    assert work.span_s == 10.0


def test_superposing_a_fraction_thins_the_last_copy_evenly():
    work = make([float(at) for at in range(100)], span_s=100.0)
    assert len(work.scaled(2.5, method="superpose")) == 250
    assert len(work.scaled(0.25, method="superpose")) == 25


def test_at_rate_clip_and_lasting_give_what_they_say():
    work = make([0.0, 1.0, 4.0], span_s=10.0, blocks=["0 1", "0 2", ""])
    assert work.at_rate(3.0).rate_rps == pytest.approx(3.0)
    assert work.clip(1.0).arrival_s.tolist() == [0.0]
    longer = work.lasting(21.5)
    assert longer.arrival_s.tolist() == [0.0, 1.0, 4.0, 10.0, 11.0, 14.0, 20.0, 21.0]
    assert longer.span_s == 21.5
    # A repetition is another day: its prefix blocks are new ones.
    assert longer.prefix[3:5] == ((3, 4), (3, 5))
    assert longer.prefix_hashes(4) == ((3).to_bytes(8, "big"), (5).to_bytes(8, "big"))
    assert make([0.0]).prefix_hashes(0) == ()


def test_the_checksum_covers_every_column_and_the_label():
    base = make([0.0, 1.0])
    others = [
        make([0.0, 1.1]),
        make([0.0, 1.0], label="real"),
        make([0.0, 1.0], span_s=2.0),
        make([0.0, 1.0], blocks=["1", ""]),
    ]
    assert len({work.checksum() for work in (base, *others)}) == 5
    assert base.checksum() == make([0.0, 1.0]).checksum()


@pytest.mark.parametrize(
    "frame, complaint",
    [
        ({"arrival_s": [0.0], "input_tokens": [1]}, "lacks output_tokens"),
        ({"arrival_s": [1.0, 0.5], "input_tokens": [1, 1], "output_tokens": [1, 1]}, "not decrease"),
        ({"arrival_s": [-1.0], "input_tokens": [1], "output_tokens": [1]}, "start at 0"),
        ({"arrival_s": [0.0], "input_tokens": [0], "output_tokens": [1]}, "at least 1"),
        ({"arrival_s": ["soon"], "input_tokens": [1], "output_tokens": [1]}, "row 0 is not numeric"),
    ],
)
def test_a_frame_that_is_no_workload_is_refused(frame, complaint):
    with pytest.raises(UsageError, match=complaint):
        Workload.from_frame(pd.DataFrame(frame))


def test_impossible_scales_are_refused():
    for action in (lambda w: w.scaled(0.0), lambda w: w.scaled(float("nan")), lambda w: w.clip(0.0)):
        with pytest.raises(UsageError):
            action(make([0.0, 1.0]))
    with pytest.raises(UsageError, match="no rate"):
        make([]).at_rate(1.0)


def test_columns_cannot_be_changed_afterwards():
    with pytest.raises(ValueError, match="read-only"):
        make([0.0]).arrival_s[0] = 1.0


@pytest.mark.parametrize("name", sorted(twins.TWINS))
def test_a_twin_meets_the_published_figures(name):
    twin, work = twins.TWINS[name], twins.synthetic(name)
    assert work.label == "synthetic" and len(work) == twin.requests
    assert work.rate_rps == pytest.approx(twin.rate_rps, rel=1e-6)
    # Few gaps carry a CV of 13: a sample of one trace's size falls short of it.
    assert work.gap_cv == pytest.approx(twin.gap_cv, rel=0.05 if twin.gap_cv < 2 else 0.5)
    for lengths, sample in ((twin.input, work.input_tokens), (twin.output, work.output_tokens)):
        assert sample.mean() == pytest.approx(lengths.mean, rel=0.03)
        levels = np.array([0.5, 0.95, 0.99])
        assert lengths.quantile(levels) == pytest.approx([lengths.p50, lengths.p95, lengths.p99])
        assert np.quantile(sample, levels) == pytest.approx([lengths.p50, lengths.p95, lengths.p99], rel=0.08)


def test_a_twin_repeats_by_seed():
    assert twins.synthetic("mooncake", seed=1, requests=50).checksum() == twins.synthetic("mooncake", seed=1, requests=50).checksum()  # fmt: skip
    assert twins.synthetic("mooncake", seed=1).checksum() != twins.synthetic("mooncake", seed=2).checksum()


def test_bursty_gaps_have_the_mean_and_variation_asked_for():
    gaps = twins.draw_gaps(np.random.default_rng(1), 400_000, mean_s=0.5, cv=3.0)
    assert gaps.mean() == pytest.approx(0.5, rel=0.03)
    assert gaps.std() / gaps.mean() == pytest.approx(3.0, rel=0.15)


def test_figures_that_no_curve_meets_are_refused():
    with pytest.raises(UsageError, match="no curve"):
        twins.Lengths(mean=5000, p50=10, p95=20, p99=30).exponent()


def test_without_data_a_name_fails_clearly_or_falls_back_labelled(tmp_path, monkeypatch):
    monkeypatch.setenv(data.ENVIRONMENT, str(tmp_path))
    with pytest.raises(DataMissing, match="azure-conv"):
        Workload.named("azure-conv")
    assert Workload.named("azure-conv", fallback=True).label == "synthetic"
    with pytest.raises(DataMissing):
        Workload.named("servegen-m-mid", fallback=True)
    with pytest.raises(UsageError, match="azure-code"):
        Workload.named("azure")


def test_poisson_has_its_rate_and_variation():
    work = poisson(rate_rps=20.0, duration_s=1000.0, seed=3)
    assert work.rate_rps == pytest.approx(20.0, rel=0.03)
    assert work.gap_cv == pytest.approx(1.0, abs=0.03)


def test_the_azure_reader_gives_the_measured_rows():
    if "azure-conv" not in HERE:
        return check_missing("azure-conv")
    work = Workload.named("azure-conv")
    assert (len(work), work.label) == (13_828, "real")
    assert work.arrival_s[:2].tolist() == [0.0, 4.314579]
    # The first two thirds of a trace with rate 5.53/s, CV 1.09 and prompt median 1,020.
    assert work.rate_rps == pytest.approx(5.92, abs=0.01)
    assert work.gap_cv == pytest.approx(1.08, abs=0.01)
    assert np.median(work.input_tokens) == pytest.approx(1016, abs=1)
    return None


def test_the_mooncake_reader_spreads_ticks_and_keeps_rows_in_order():
    if "mooncake" not in HERE:
        return check_missing("mooncake")
    work, raw = traces.mooncake(), data.load("mooncake")
    shift = work.arrival_s - raw["arrival_s"].to_numpy()
    assert shift.min() >= 0 and shift.max() <= traces.MOONCAKE_TICK_S
    assert work.input_tokens.tolist() == raw["input_tokens"].tolist()
    assert work.prefix[0] == tuple(range(14))
    assert work.gap_cv == pytest.approx(1.0, abs=0.05)
    return None


def test_servegen_draws_the_published_rate_of_its_clients():
    if not {"servegen-deepseek-r1", "servegen-tokens"} <= HERE:
        return check_missing("servegen-deepseek-r1")
    work = traces.servegen("deepseek-r1", start_s=36_000, duration_s=1200, seed=1)
    rates = data.load("servegen-deepseek-r1")
    expected = rates[rates["t_s"].isin([36_000, 36_600])]["rate_rps"].sum() * 600
    assert len(work) == pytest.approx(expected, rel=0.01)
    assert work.label == "synthetic"
    assert work.checksum() == traces.servegen("deepseek-r1", start_s=36_000, duration_s=1200, seed=1).checksum()
    with pytest.raises(UsageError, match="covers"):
        traces.servegen("deepseek-r1", start_s=1e9)
    return None


def check_missing(name: str) -> None:
    with pytest.raises(DataMissing):
        Workload.named(name)


def test_unknown_traces_are_named():
    with pytest.raises(UsageError, match="'conv'"):
        traces.azure("chat")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="m-large"):
        traces.servegen("m-tiny")
