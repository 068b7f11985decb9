"""A control plane is started by `make kube` alone, which prints what came of it."""

from __future__ import annotations

import pytest

TABLES = pytest.StashKey[list[str]]()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--kube", default=False):
        items[:] = [i for i in items if i.get_closest_marker("control_plane") is None]


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
