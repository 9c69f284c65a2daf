"""The page about a fuzzing run, from what libFuzzer says."""

from tests.fuzz.report import read_outcome, write_report

SAID = """#12\tDONE
stat::number_of_executed_units: 123456
stat::average_exec_per_sec:     6172
stat::new_units_added:          78
"""


def test_a_run_that_ended_well_is_a_row_with_its_inputs():
    one = read_outcome("kad", 0, SAID, 20.4)
    assert one.has_passed and one.line == "kad: 123,456 inputs in 20 s"
    assert "| kad | 20 | 123,456 | 78 | passed |" in write_report([one], 20)
    assert "none of 1 targets failed" in write_report([one], 20)
    assert "`python -m tests.fuzz --seconds 20` at" in write_report([one], 20)
    assert "`python -m tests.fuzz --seconds 20 kad` at" in write_report([one], 20, is_part=True)


def test_a_run_that_broke_or_never_began_is_named():
    broke, silent = read_outcome("yamux", 77, SAID, 3.0), read_outcome("peer_id", 1, "no such module", 0.2)
    report = write_report([broke, silent], 20)
    assert "failed: yamux, peer_id" in report
    assert "| yamux | 3 | 123,456 | 78 | **failed** |" in report and "| peer_id | 0 | ? | 0 | **failed** |" in report
    assert broke.line == "yamux: FAILED after 123,456 inputs in 3 s"


def test_a_process_that_exits_well_without_fuzzing_has_not_passed():
    assert not read_outcome("kad", 0, "", 0.1).has_passed
