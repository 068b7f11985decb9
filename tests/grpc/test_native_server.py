"""What only the native server has; the rest is in conformance/."""

from __future__ import annotations

from typing import Any

import grpc
import grpc.aio
import pytest

from k8strace.grpc import native
from tests.support.backend import PATH
from tests.support.engine import Rig


async def test_health() -> None:
    async with Rig(native) as rig:
        async with grpc.aio.insecure_channel(rig.address) as channel:
            check: Any = channel.unary_unary("/grpc.health.v1.Health/Check")
            service = PATH.split("/")[1].encode()
            for name in (b"", bytes([0x0A, len(service)]) + service):
                assert await check(name, timeout=20) == b"\x08\x01"
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await check(b"\x0a\x02no", timeout=20)
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        assert not rig.calls


async def test_several_servers_share_a_port() -> None:
    async with Rig(native, reuse_port=True) as one:
        async with Rig(native, reuse_port=True, endpoint=one.address) as two:
            assert one.address == two.address
