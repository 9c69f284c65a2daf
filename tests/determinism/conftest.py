"""Says at the end of a test run what was compared: a green line alone does not tell how much was looked at."""

from __future__ import annotations

from collections.abc import Callable

import pytest

COMPARED = pytest.StashKey[list[str]]()


@pytest.fixture
def say(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Print a line below the results."""
    return request.config.stash.setdefault(COMPARED, []).append


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for line in config.stash.get(COMPARED, []):
        terminalreporter.write_line(line)
