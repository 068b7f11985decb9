"""The native engine is what an engine has to be; conformance/ shows what it does."""

from __future__ import annotations

from k8strace.grpc import ServerFactory, native


def test_its_server_is_an_engines() -> None:
    factory: ServerFactory = native.Server
    assert callable(factory)
