"""What holds for every benchmark."""

from __future__ import annotations

import pytest

from k8strace import _fastpath


def pytest_collection_modifyitems(config: pytest.Config) -> None:
    """Refuse to measure what nobody would run."""
    measured = not config.getoption("benchmark_disable", default=False)
    if measured and _fastpath.BUILD != "release":
        raise pytest.UsageError(
            f"k8strace._fastpath is a {_fastpath.BUILD} build: figures of it mean nothing; "
            "build it again with K8STRACE_BUILD=release"
        )
