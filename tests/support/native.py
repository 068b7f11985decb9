"""The native client, as tests use it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from k8strace.grpc import ClientSettings, native
from tests.support.backend import PATH


@asynccontextmanager
async def client(target: str, **settings: Any) -> AsyncIterator[native.Client]:
    settings = {"compression": "none"} | settings
    one = native.Client(ClientSettings(target=target, **settings))
    await one.start()
    try:
        yield one
    finally:
        await one.stop()


async def call(one: native.Client, body: bytes = b"\x0a\x00") -> bytes:
    return await one.call(PATH, (body,), timeout=20)
