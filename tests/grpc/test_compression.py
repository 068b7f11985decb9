"""gzip and zstd, in and out: any bytes, within limit and budget, small and large."""

from __future__ import annotations

import asyncio
import gc
import gzip
import os
import resource
import subprocess
import sys
import zlib
from collections.abc import Awaitable, Callable

import lz4.frame
import pytest
from hypothesis import given
from hypothesis import strategies as st

from k8strace import _threads, threads
from k8strace._codec import DEFLATE, GZIP, LZ4, SNAPPY, ZLIB, ZSTD
from k8strace.budget import Budget, Lease
from k8strace.grpc.compression import (
    ENCODINGS,
    MAGIC,
    Later,
    compress,
    decompress,
)
from k8strace.grpc.status import Code, StatusError
from tests.support.sanitizers import unsanitized
from tests.support.slowness import without_slowness
from tests.test_codec import deflate, zstd_streamed

MIB = 1024 * 1024
NO_LIMIT = 1 << 30
WRITTEN = [GZIP, ZSTD, SNAPPY]


async def packed(encoding: int, *chunks: bytes) -> bytes:
    result = compress(encoding, chunks)
    return result if isinstance(result, bytes) else await result


async def unpacked(
    encoding: int, data: bytes, limit: int = NO_LIMIT, lease: Lease | None = None
) -> bytes:
    result = decompress(encoding, data, limit, lease)
    return result if isinstance(result, bytes) else await result


def at_once(result: bytes | Later) -> bytes:
    assert isinstance(result, bytes)
    return result


def test_encodings_have_grpcs_names() -> None:
    assert ENCODINGS == {"none": 0, "gzip": GZIP, "zstd": ZSTD, "snappy": SNAPPY}
    assert at_once(compress(GZIP, ())).startswith(MAGIC)


@given(st.sampled_from(WRITTEN), st.lists(st.binary(max_size=3000), max_size=5))
def test_what_is_small_is_done_at_once(encoding: int, chunks: list[bytes]) -> None:
    data = at_once(compress(encoding, tuple(chunks)))
    budget = Budget(MIB)
    lease = budget.lease(len(data), "peer")
    assert at_once(decompress(encoding, data, NO_LIMIT, lease)) == b"".join(chunks)
    assert lease is not None
    assert lease.size == budget.used == sum(map(len, chunks))


@pytest.mark.parametrize("encoding", WRITTEN)
@pytest.mark.parametrize("size", [MIB - 1, MIB, MIB + 1, 5 * MIB])
@pytest.mark.parametrize("random", [True, False])
async def test_any_size_within_a_budget(encoding: int, size: int, random: bool) -> None:
    body = os.urandom(size) if random else bytes(size)
    many = await packed(encoding, b"") + await packed(encoding, body[:7])
    bodies = [await packed(encoding, body), many + await packed(encoding, body[7:])]
    if encoding == ZSTD:
        bodies.append(zstd_streamed(body, 1))
    for data in bodies:
        budget = Budget(2 * size + 2 * len(data) + 2 * MIB)
        lease = budget.lease(len(data), "peer")
        assert lease is not None
        assert await unpacked(encoding, data, size, lease) == body
        assert lease.size == budget.used == size


@pytest.mark.parametrize("encoding", WRITTEN)
@pytest.mark.parametrize("size", [100, MIB, 2 * MIB + 5])
async def test_the_limit_is_exact(encoding: int, size: int) -> None:
    data = await packed(encoding, bytes(size))
    assert await unpacked(encoding, data, size) == bytes(size)
    parts = await packed(encoding, bytes(size - 1)) + await packed(encoding, b"x")
    for one in (data, parts):
        with pytest.raises(StatusError, match=f"larger than {size - 1} bytes") as caught:
            await unpacked(encoding, one, size - 1)
        assert caught.value.code is Code.RESOURCE_EXHAUSTED
        assert not caught.value.retryable


@pytest.mark.parametrize("encoding", WRITTEN)
@pytest.mark.parametrize("size", [1000, 3 * MIB])
async def test_what_is_malformed(encoding: int, size: int) -> None:
    data = await packed(encoding, os.urandom(size))
    for broken in (data[:-1], data + b"?", data[:500] + b"\0\0\0\0" + data[504:]):
        with pytest.raises(StatusError, match=r"gzip: |zstd: |snappy: ") as caught:
            await unpacked(encoding, broken)
        assert caught.value.code is Code.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("encoding", "write"),
    [
        (GZIP, gzip.compress),
        (ZSTD, zstd_streamed),
        (ZLIB, zlib.compress),
        (DEFLATE, lambda body: zlib.compress(body)[2:-4]),
        (SNAPPY, lambda body: deflate(SNAPPY, body)),
        (LZ4, lambda body: lz4.frame.compress(body, store_size=False)),
    ],
)
async def test_a_bomb_costs_no_more_than_the_limit(
    encoding: int, write: Callable[[bytes], bytes]
) -> None:
    data = write(bytes(64 * MIB))
    budget = Budget(64 * MIB)
    lease = budget.lease(len(data), "peer")
    most = 0

    def freed(amount: int) -> None:
        nonlocal most
        most = max(most, budget.used + amount)

    budget.follow(freed)
    with pytest.raises(StatusError) as caught:
        await unpacked(encoding, data, 4 * MIB, lease)
    assert caught.value.code is Code.RESOURCE_EXHAUSTED
    del lease
    caught = None  # type: ignore[assignment]
    gc.collect()
    assert 4 * MIB < most <= len(data) + 4 * MIB + 1 + 3 * MIB  # a window, and a decoder
    assert budget.used == 0


@pytest.mark.parametrize("size", [100_000, 5 * MIB])
@pytest.mark.parametrize("encoding", WRITTEN)
async def test_without_room_it_fails_and_does_not_wait(encoding: int, size: int) -> None:
    for kind, data in (
        (encoding, await packed(encoding, bytes(size))),
        (ZSTD, zstd_streamed(bytes(size))),
    ):
        budget = Budget(len(data) + size // 2)
        lease = budget.lease(len(data), "peer")
        with pytest.raises(StatusError) as caught:
            await unpacked(kind, data, NO_LIMIT, lease)
        assert caught.value.code is Code.UNAVAILABLE
        assert caught.value.retry_delay is not None
        del lease
        caught = None  # type: ignore[assignment]
        assert budget.used == 0


@pytest.mark.parametrize("encoding", WRITTEN)
async def test_cancelled_while_a_thread_works(encoding: int) -> None:
    """What the thread uses stays until it has ended, and with it the lease."""
    body = os.urandom(16 * MIB)
    data = await packed(encoding, body)
    port = threads._ways[asyncio.get_running_loop(), _threads.COMPUTING].port
    budget = Budget(128 * MIB)
    running_when_freed: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    budget.follow(lambda _: running_when_freed.set_result(port.running))
    lease = budget.lease(len(data), "peer")
    inflating = asyncio.ensure_future(_once(decompress(encoding, data, NO_LIMIT, lease)))
    del lease, data
    await asyncio.sleep(0)
    assert port.running == 1
    inflating.cancel()
    with pytest.raises(asyncio.CancelledError):
        await inflating
    del inflating
    async with asyncio.timeout(20):
        assert await running_when_freed == 0
    assert budget.used == 0

    deflating = asyncio.ensure_future(_once(compress(encoding, (body,))))
    del body
    await asyncio.sleep(0)
    deflating.cancel()
    with pytest.raises(asyncio.CancelledError):
        await deflating
    assert await unpacked(encoding, await packed(encoding, b"spans")) == b"spans"


async def _once(result: bytes | Awaitable[bytes]) -> bytes:
    assert not isinstance(result, bytes)
    return await result


@pytest.mark.parametrize("encoding", WRITTEN)
async def test_the_loop_goes_on_while_a_large_body_inflates(encoding: int) -> None:
    pattern = os.urandom(1000)
    body = pattern * (64 * MIB // 1000)
    data = await packed(encoding, body)
    inflating = asyncio.ensure_future(unpacked(encoding, data))
    turns = 0
    while not inflating.done():
        await asyncio.sleep(0)
        turns += 1
    assert await inflating == body
    assert turns > 100


async def test_many_at_a_time() -> None:
    bodies = [os.urandom(7) * (200_000 + number) for number in range(20)]

    async def there_and_back(number: int, body: bytes) -> None:
        encoding = WRITTEN[number % 3]
        data = await packed(encoding, body, body)
        assert await unpacked(encoding, data) == body * 2

    async with asyncio.TaskGroup() as group:
        for number, body in enumerate(bodies):
            group.create_task(there_and_back(number, body))


SHORT_OF_MEMORY = """
import asyncio, resource
from k8strace.grpc.compression import GZIP, SNAPPY, ZSTD, compress, decompress
from k8strace.grpc.status import Code, StatusError

async def main():
    for encoding in (GZIP, ZSTD, SNAPPY):
        body = compress(encoding, (bytes(512 << 20),))
        body = await body
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (100 << 20), -1))
        try:
            await decompress(encoding, body, 1 << 30, None)
        except StatusError as error:
            assert error.code is Code.UNAVAILABLE and error.retry_delay, error
        else:
            raise AssertionError("there was memory")
        resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
        assert decompress(encoding, compress(encoding, (b"spans",)), 100, None) == b"spans"

asyncio.run(main())
"""


@unsanitized("their shadow of memory is larger than any limit")
def test_without_memory_the_request_fails_and_nothing_else() -> None:
    assert resource.getrlimit(resource.RLIMIT_AS)[1] == resource.RLIM_INFINITY
    command = [sys.executable, "-c", SHORT_OF_MEMORY]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, without_slowness(done.stderr)) == (0, "")
