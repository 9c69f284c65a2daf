"""The documentation is true: metrics.md names every column, the examples of extend.md run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sim import Scenario, World
from sim.collect import EpochRow, EvidenceRow, ProviderRow, RequestRow

DOCS = Path(__file__).parents[2] / "docs"
EXAMPLES = re.findall(r"```python\n(.*?)```", (DOCS / "extend.md").read_text(), re.DOTALL)


@pytest.fixture(scope="module")
def result():
    return World(Scenario.named("tour"), seed=1).run(progress=False)


def columns(section):
    text = (DOCS / "metrics.md").read_text().split(f"\n## {section}\n")[1].split("\n## ")[0]
    return re.findall(r"^\| `(\w+)`", text, re.MULTILINE)


@pytest.mark.parametrize(
    ("section", "kind"),
    [("requests", RequestRow), ("providers", ProviderRow), ("epochs", EpochRow), ("evidence", EvidenceRow)],
)
def test_metrics_names_every_column_in_order(section, kind, result):
    assert columns(section) == list(kind.__struct_fields__) == list(getattr(result, section).columns)


def test_metrics_names_every_key_of_the_summary(result):
    assert columns("summary") == list(result.summary)


@pytest.mark.parametrize(
    ("section", "kind"),
    [("requests", RequestRow), ("providers", ProviderRow), ("epochs", EpochRow), ("evidence", EvidenceRow)],
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
