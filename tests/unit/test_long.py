"""The long tests: none is left out of every group, and the page says what each run saw."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from tests.long import GROUPS, ROOT, Group, Outcome, make_report, read

RESULTS = """<testsuites><testsuite name="pytest">
  <testcase classname="tests.scenarios.test_dht_long" name="test_a[1]" time="61.5">
    <properties><property name="compared" value="3 agree"/></properties>
  </testcase>
  <testcase classname="tests.live.test_b" name="test_b" time="0.2"><skipped message="no netem | here&#10;more">x</skipped></testcase>
  <testcase classname="tests.live.test_b" name="test_c" time="3"><failure message="assert 1 == 2">x</failure></testcase>
</testsuite></testsuites>"""


def test_every_file_with_a_long_test_belongs_to_a_group():
    paths = [path for group in GROUPS.values() for path in group if path.startswith("tests/")]
    long = [path for path in (ROOT / "tests").rglob("test_*.py") if "mark.long" in path.read_text()]
    left_out = [
        str(path.relative_to(ROOT)) for path in long if not any(path.is_relative_to(ROOT / group) for group in paths)
    ]
    assert left_out == ["tests/unit/test_long.py"]


def test_results_are_read_from_what_pytest_wrote():
    assert read(ET.fromstring(RESULTS)) == [
        Outcome(name="tests/scenarios/test_dht_long.py::test_a[1]", result="passed", said="3 agree", seconds=61.5),
        Outcome(name="tests/live/test_b.py::test_b", result="skipped", said="no netem | here", seconds=0.2),
        Outcome(name="tests/live/test_b.py::test_c", result="failed", said="assert 1 == 2", seconds=3.0),
    ]


def test_the_page_tells_failures_reasons_and_what_was_not_run():
    group = Group(commit="abc123", machine="Python", load_before=0.5, outcomes=tuple(read(ET.fromstring(RESULTS))))
    page = make_report({"live": group})
    assert "| `tests/live/test_b.py::test_c` | 3 | failed: assert 1 == 2 |" in page
    assert r"skipped: no netem \| here" in page and "Commit abc123." in page
    assert f"Not run: {', '.join(name for name in GROUPS if name != 'live')}." in page
