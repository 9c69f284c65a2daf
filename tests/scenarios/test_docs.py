"""The documentation is true: metrics.md names every column, the examples of extend.md run, the cell everything serves works."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from quiver.selection.power_of_two import PowerOfTwo
from sim import Scenario, World
from sim.collect import EpochRow, ProviderRow, RequestRow

DOCS = Path(__file__).parents[2] / "docs"
EXAMPLES = re.findall(r"```python\n(.*?)```", (DOCS / "extend.md").read_text(), re.DOTALL)


@pytest.fixture(scope="module")
def result():
    return World(Scenario.named("tour"), seed=1).run(progress=False)


def columns(section):
    text = (DOCS / "metrics.md").read_text().split(f"\n## {section}\n")[1].split("\n## ")[0]
    return re.findall(r"^\| `(\w+)`", text, re.MULTILINE)


@pytest.mark.parametrize(
    ("section", "kind"), [("requests", RequestRow), ("providers", ProviderRow), ("epochs", EpochRow)]
)
def test_metrics_names_every_column_in_order(section, kind, result):
    assert columns(section) == list(kind.__struct_fields__) == list(getattr(result, section).columns)


def test_metrics_names_every_key_of_the_summary(result):
    assert columns("summary") == list(result.summary)


@pytest.mark.parametrize(
    ("section", "kind"), [("requests", RequestRow), ("providers", ProviderRow), ("epochs", EpochRow)]
)
def test_metrics_names_the_type_of_every_column(section, kind):
    text = (DOCS / "metrics.md").read_text().split(f"\n## {section}\n")[1].split("\n## ")[0]
    types = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", text, re.MULTILINE))
    assert {name: kind.replace(" or none", " | None") for name, kind in types.items()} == kind.__annotations__


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_an_example_of_extend_runs(example):
    exec(compile(example, "docs/extend.md", "exec"), {"__name__": "example"})


def test_a_tour_completes_and_pays_to_the_unit(result):
    s = result.summary
    assert s["requests"] == s["completed"] + s["rejected"] + s["failed"] + s["cancelled"] + s["unfinished"]
    assert s["completed"] > 50
    assert s["credits_owed"] == s["credits_paid"] == result.requests["paid_credits"].sum() > 0
    assert s["receipts"] == s["receipts_ingested"]


def test_frames_come_back_from_parquet(result, tmp_path):
    import pandas as pd

    result.save(tmp_path)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "requests.parquet"), result.requests, check_dtype=False)


def test_the_cell_everything_serves():
    base = Scenario.named("azure-planetlab").replace(
        providers=12, gateways=1, duration_s=10.0, arrivals=0.5, fallback=True
    )
    runs = base.sweep(policy=[PowerOfTwo, "random"], seed=range(2)).run(processes=1, progress=False)
    assert set(runs.requests["policy"]) == {"PowerOfTwo", "random"}
    assert list(runs.summary("ttft_s", q=[0.5, 0.95], by="policy")["n_seeds"]) == [2, 2, 2, 2]
    assert len(runs.compare("ttft_s", q=0.5, by="policy", baseline="PowerOfTwo")) == 1
    assert runs.plot.cdf("ttft_s", by="policy").axes[0].get_xlabel() == "ttft_s (seconds)"
    first = runs.requests["request_id"].iloc[0]
    assert runs.results[0].explain(first)["request_id"] == first
