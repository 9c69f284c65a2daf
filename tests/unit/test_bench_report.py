"""The benchmark report: order, verdicts and intervals, with numbers by hand."""

from __future__ import annotations

import pytest

from tests.bench.report import Goal, Machine, Row, compute_interval, make_report, order_rows

MACHINE = Machine(
    commit="abc123", cpu="Test CPU", cores=2, python="CPython 3.11.7", load_before=(0.5, 1.0, 1.5), load_after=(2.0, 1.25, 1.5)
)  # fmt: skip


def row(name, *ratios, goal=None):
    return Row(
        name=name, ours="3 x/s", peer="-", limit="2 x/s", ratios=ratios, goal=goal or Goal(value=1.0), command="make bench"
    )  # fmt: skip


def test_the_interval_is_students_with_n_minus_1_degrees_of_freedom():
    # mean 2, variance ((1)^2 + 0 + (1)^2) / 2 = 1, half width 4.303 / sqrt(3) = 2.484
    assert compute_interval([1.0, 2.0, 3.0]) == pytest.approx((2 - 2.4843, 2 + 2.4843), abs=1e-3)
    # mean 1.5, variance 0.5, half width 12.706 * sqrt(0.25) = 6.353
    assert compute_interval([1.0, 2.0]) == pytest.approx((-4.853, 7.853), abs=1e-3)


def test_one_repetition_has_no_interval():
    assert compute_interval([1.0]) is None
    assert "| 1 | - | 1 |" in make_report([row("a", 1.0)], MACHINE)


def test_a_floor_is_half_as_good_as_the_goal_unless_given():
    assert Goal(value=1.0).worst == 0.5
    assert Goal(value=1.3, at_most=True).worst == 2.6
    assert Goal(value=1.5, floor=1.2).worst == 1.2


@pytest.mark.parametrize(
    "goal, ratio, verdict",
    [
        (Goal(value=1.5, floor=1.2), 1.5, "yes"),
        (Goal(value=1.5, floor=1.2), 1.49, "missed"),
        (Goal(value=1.5, floor=1.2), 1.2, "missed"),
        (Goal(value=1.5, floor=1.2), 1.19, "FAIL"),
        (Goal(value=1.3, at_most=True), 1.3, "yes"),
        (Goal(value=1.3, at_most=True), 2.6, "missed"),
        (Goal(value=1.3, at_most=True), 2.61, "FAIL"),
    ],
)
def test_a_verdict_is_yes_missed_or_fail(goal, ratio, verdict):
    assert goal.judge(ratio) == verdict


def test_misses_come_first_failures_before_them_and_otherwise_in_order_of_measuring():
    rows = [row("good", 2.0), row("missed one", 0.9), row("failed", 0.1), row("missed two", 0.6), row("good too", 1.0)]
    assert [r.name for r in order_rows(rows)] == ["failed", "missed one", "missed two", "good", "good too"]
    report = make_report(rows, MACHINE)
    assert "3 of 5 rows miss their goal" in report
    assert report.index("| failed |") < report.index("| missed one |") < report.index("| good |")


def test_a_report_names_the_machine_and_how_busy_it_was():
    report = make_report([row("a", 0.5, 1.0, 1.5)], MACHINE)
    for text in ("abc123", "Test CPU, 2 cores", "CPython 3.11.7", "before: 0.50, 1.00, 1.50; after: 2.00, 1.25, 1.50"):
        assert text in report
    # mean 1, variance 0.25, half width 4.303 * sqrt(0.25 / 3) = 1.242
    assert "| a | 3 x/s | - | 2 x/s | 1 | -0.24 to 2.24 | 3 | ≥ 1 (floor 0.5) | yes | `make bench` |" in report
