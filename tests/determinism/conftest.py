"""Says at the end of a test run what was compared: a green line alone does not tell how much was looked at."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

COMPARED = "compared"


@pytest.fixture
def say(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Print a line below the results. It travels with the test's report, so it arrives from another process too."""
    return partial(record_property, COMPARED)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            if name == COMPARED:
                terminalreporter.write_line(str(value))
