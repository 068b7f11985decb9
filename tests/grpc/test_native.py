"""The native engine is what an engine has to be; conformance/ shows what it does."""

from __future__ import annotations

from k8strace.grpc import Client, ClientSettings, ServerFactory, native


def test_it_is_an_engine() -> None:
    factory: ServerFactory = native.Server
    client: Client = native.Client(ClientSettings(target="localhost:4317"))
    assert callable(factory)
    assert client is not None
