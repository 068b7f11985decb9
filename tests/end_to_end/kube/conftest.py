"""What `make kube` prints of control planes at its end."""

from __future__ import annotations

import pytest

TABLES = pytest.StashKey[list[str]]()


@pytest.fixture(scope="session")
def tables(pytestconfig: pytest.Config) -> list[str]:
    """What is added here is printed at the end."""
    return pytestconfig.stash.setdefault(TABLES, [])


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if found := config.stash.get(TABLES, []):
        terminalreporter.section("control plane")
        terminalreporter.write("\n".join(found))
