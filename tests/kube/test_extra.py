"""Without the OpenTelemetry SDK, imports say what to install."""

from __future__ import annotations

import subprocess
import sys

import pytest

# As it is where what begins with this prefix was never installed.
SCRIPT = """
import importlib, sys

class Missing:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.startswith(sys.argv[1]) and not name.startswith("opentelemetry.proto"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing)
for name in sys.argv[2:]:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        print(error)
    else:
        print("fine")
"""
SPANS = tuple(
    f"k8strace.kube.{name}"
    for name in ("aiohttp_client", "asgi", "grpc", "grpc_client", "propagation", "provider")
)


def imported(prefix: str, *modules: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, prefix, *modules],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    ("prefix", "modules"),
    [
        ("opentelemetry.", SPANS),
        ("opentelemetry.sdk", ("k8strace.kube.provider",)),
        ("opentelemetry.exporter", ("k8strace.kube.provider",)),
    ],
)
def test_it_says_what_to_install(prefix: str, modules: tuple[str, ...]) -> None:
    lines = imported(prefix, *modules)
    assert len(lines) == len(modules)
    for line in lines:
        assert line.startswith("it needs the OpenTelemetry SDK")
        assert prefix.rstrip(".") in line
        assert line.endswith("pip install k8strace[kube]")


def test_what_makes_no_spans_needs_nothing() -> None:
    assert imported("opentelemetry.", "k8strace.gen", "k8strace.gateway") == ["fine"] * 2
