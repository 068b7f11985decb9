"""What all faults share: a short form and a long one, and the account at their end."""

from __future__ import annotations

import resource
from collections import Counter
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from tests.end_to_end.conftest import start
from tests.faults.results import Peak, Result, load, memory_table, store, table
from tests.support.workers import Load

T = TypeVar("T")
PASSED = pytest.StashKey[bool]()

__all__ = ["Fault", "start"]


class Fault:
    """One that is being tested; `settle` ends it."""

    def __init__(self, name: str, mode: str, *, is_long: bool) -> None:
        self.name = name
        self.mode = mode
        self.is_long = is_long
        self.result: Result | None = None
        self.peak: Peak | None = None

    def of(self, short: T, long: T) -> T:
        """What the form that is run takes."""
        return long if self.is_long else short

    def settle(
        self,
        what: str,
        senders: Load,
        delivered: Counter[bytes],
        *,
        may_lose: int = 0,
        note: str = "",
    ) -> Result:
        """Hold what senders know against what the backend has, span by span.

        `what` says how much was done. Of what was acknowledged, no more than `may_lose` is
        missing, and nothing came that nobody had sent.
        """
        lost = senders.acknowledged - delivered.keys()
        self.result = Result(
            fault=self.name,
            mode=self.mode,
            load=what,
            sent=len(senders.sent),
            acknowledged=len(senders.acknowledged),
            delivered=len(delivered),
            duplicated=delivered.total() - len(delivered),
            lost=len(lost),
            note=note if lost else "",
        )
        assert senders.acknowledged
        assert delivered.keys() <= senders.sent
        assert len(lost) <= may_lose, self.result
        return self.result


@pytest.fixture
def fault(request: pytest.FixtureRequest) -> Iterator[Fault]:
    """The test's name is the fault's, its parameters' the mode's."""
    path: Path | None = request.config.getoption("--faults", default=None)
    key = request.node.name
    done = {} if path is None else load(path)
    if key in done:
        pytest.skip("done before: FRESH=1 forgets")
    name, _, parameters = key.removeprefix("test_").partition("[")
    one = Fault(name.replace("_", " "), parameters.rstrip("]"), is_long=path is not None)
    yield one
    passed = request.node.stash.get(PASSED, False)
    result = one.result or one.peak
    if path is not None and result is not None and passed:
        store(path, key, result)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--faults", default=None) is None:
        items[:] = [item for item in items if item.get_closest_marker("long") is None]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if call.when == "call":
        item.stash[PASSED] = report.passed
    return report


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    path: Path | None = config.getoption("--faults", default=None)
    if path is not None and (results := load(path)):
        text = table(results.values()) + "\n" + memory_table(results.values())
        path.with_suffix(".md").write_text(text)
        terminalreporter.section("faults")
        terminalreporter.write(text)


@pytest.fixture
def descriptors() -> Iterator[None]:
    """As many sockets as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
