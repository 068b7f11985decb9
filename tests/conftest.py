"""What holds for every test."""

from __future__ import annotations

import logging
import signal
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from k8strace import files
from k8strace.log_queue import queue
from tests.support.certificates import Authority, Pair
from tests.support.memory import Memory
from tests.support.slowness import is_no_slowness

# A law fails for what it says, never for how fast this machine is just now.
_SLOW = (HealthCheck.too_slow, HealthCheck.data_too_large)
settings.register_profile("default", deadline=None, suppress_health_check=_SLOW)
settings.register_profile("thorough", settings.get_profile("default"), max_examples=5000)
settings.load_profile("default")


# Shells have background programs ignore it, and programs under test inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


# Tests say what is logged, and how often; of that it would be one more.
logging.getLogger("asyncio").addFilter(is_no_slowness)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--faults",
        type=Path,
        help="run tests/faults in their long form, and keep what comes of it in this file",
    )
    parser.addoption(
        "--kube", action="store_true", help="run what starts a Kubernetes control plane"
    )
    parser.addoption("--soak", type=int, default=1, help="times what tests of endurance do")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Nothing starts a control plane unasked."""
    if not config.getoption("--kube"):
        items[:] = [i for i in items if i.get_closest_marker("control_plane") is None]


@pytest.fixture(scope="session", autouse=True)
def patient() -> Iterator[None]:
    """Wait for files for as long as a busy machine takes: a change is seen at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "PATIENCE", 30.0)
        yield


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call() -> Generator[None, object, object]:
    """Write what the gateway logs in this process while it is captured, not between."""
    try:
        return (yield)
    finally:
        assert queue.flush()


@pytest.fixture(autouse=True)
def log_of_its_own() -> Iterator[None]:
    """Take back what `set_up_logs` does."""
    root, ours = logging.getLogger(), logging.getLogger("k8strace")
    handlers, levels = root.handlers[:], (root.level, ours.level)
    yield
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    ours.setLevel(levels[1])
    assert queue.flush()


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """One that tests have their certificates from."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def server_pair(authority: Authority) -> Pair:
    """A certificate for localhost; no test changes its files."""
    return authority.issue()


@pytest.fixture(scope="session")
def client_pair(authority: Authority) -> Pair:
    return authority.issue("/O=acme/CN=kubelet", names="")


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Memory:
    """None in use; a test says what there is."""
    return Memory(monkeypatch)
