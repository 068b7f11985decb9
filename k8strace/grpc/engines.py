"""The engines by name; one that nobody names is not loaded."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Literal

from k8strace.grpc import Client, ClientSettings, ServerFactory

Engine = Literal["native", "grpcio"]


def server_factory(engine: Engine) -> ServerFactory:
    factory: ServerFactory = import_module(f"k8strace.grpc.{engine}").Server
    return factory


def client_factory(engine: Engine) -> Callable[[ClientSettings], Client]:
    factory: Callable[[ClientSettings], Client]
    factory = import_module(f"k8strace.grpc.{engine}").Client
    return factory
