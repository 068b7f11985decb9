"""What holds for every benchmark."""

from __future__ import annotations

import pytest

from benchmarks.table import table
from k8strace import _fastpath


def pytest_collection_modifyitems(config: pytest.Config) -> None:
    """Refuse to measure what nobody would run."""
    measured = not config.getoption("benchmark_disable", default=False)
    if measured and _fastpath.BUILD != "release":
        raise pytest.UsageError(
            f"k8strace._fastpath is a {_fastpath.BUILD} build: figures of it mean nothing; "
            "build it again with K8STRACE_BUILD=release"
        )


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print the one table of all benchmarks that were measured."""
    session = getattr(config, "_benchmarksession", None)
    if session is not None and (text := table(session.benchmarks)):
        terminalreporter.write_line("")
        terminalreporter.write_line(text)
