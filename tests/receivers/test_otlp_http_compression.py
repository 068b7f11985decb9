"""Bodies over HTTP that threads decompress."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import Callable
from http import HTTPStatus
from io import BytesIO

import lz4.frame
import pytest
import zstandard

from k8strace._codec import SNAPPY
from k8strace.budget import Budget
from tests.receivers.test_otlp_http import PROTOBUF, http_only
from tests.support.engine import MIB
from tests.support.requests import request
from tests.test_codec import deflate

PACK: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "zstd": zstandard.compress,
    "deflate": zlib.compress,
    "snappy": lambda data: deflate(SNAPPY, data),
    "lz4": lz4.frame.compress,
}


@pytest.mark.parametrize("encoding", PACK)
async def test_large_bodies_are_decompressed(encoding: str) -> None:
    good = request(40_000).SerializeToString()
    assert len(good) > 2 * MIB
    headers = PROTOBUF | {"Content-Encoding": encoding}
    pack = PACK[encoding]
    async with http_only() as (receiving, post):
        assert (await post(BytesIO(pack(good)), headers)).status == HTTPStatus.OK
        assert receiving.counted("http") == (40_000, 0, 0)
        assert receiving.budget.used == len(good)
        answer = await post(BytesIO(pack(good)[:-1]), headers)
        assert answer.status == HTTPStatus.BAD_REQUEST
        assert receiving.rejected("decode_error") == 1
        assert receiving.budget.used == len(good)


@pytest.mark.slow
@pytest.mark.parametrize("encoding", PACK)
async def test_the_largest_body(encoding: str) -> None:
    """64 MiB, beside which small requests are answered."""
    filler = b"\x12" + b"\x80\x80\x80\x10" + bytes(32 * MIB)  # an unknown field
    body = filler + b"\x12" + b"\xf6\xff\xff\x0f" + bytes(32 * MIB - 10)
    assert len(body) == 64 * MIB
    headers = PROTOBUF | {"Content-Encoding": encoding}
    pack = PACK[encoding]
    small = request(10).SerializeToString()
    async with http_only(budget=Budget(256 * MIB)) as (receiving, post):
        large = asyncio.ensure_future(post(BytesIO(pack(body)), headers))
        for _ in range(5):
            assert (await post(small)).status == HTTPStatus.OK
        assert (await large).status == HTTPStatus.OK
        answer = await post(BytesIO(pack(body + b"\x12\x00")), headers)
        assert answer.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE
        assert receiving.counted("http") == (50, 0, 0)
