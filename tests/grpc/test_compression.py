"""gzip in and out: any bytes, within limit and budget."""

from __future__ import annotations

import gzip as oracle
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k8strace.budget import Budget
from k8strace.grpc.compression import FEED, MAX_MEMBERS, STEP, gunzip, gzip
from k8strace.grpc.status import Code, StatusError

NO_LIMIT = 1 << 40


@given(st.lists(st.binary(), max_size=5))
def test_gzip_is_read_by_others(chunks: list[bytes]) -> None:
    assert oracle.decompress(gzip(chunks)) == b"".join(chunks)


@given(st.lists(st.binary(), min_size=1, max_size=5), st.integers(1, 9))
def test_gunzip_reads_what_others_write(parts: list[bytes], level: int) -> None:
    data = b"".join(oracle.compress(part, level) for part in parts)
    assert gunzip(data, NO_LIMIT, None) == b"".join(parts)


@pytest.mark.parametrize("size", [0, 1, FEED - 1, FEED, FEED + 1, STEP, STEP + 1, 3 * STEP])
@pytest.mark.parametrize("random", [True, False])
def test_any_size_within_a_budget(size: int, random: bool) -> None:
    body = os.urandom(size) if random else bytes(size)
    for data in (gzip([body]), gzip([b""]) + gzip([body[:7]]) + gzip([body[7:]])):
        budget = Budget(2 * size + 2 * len(data) + 2 * STEP)
        lease = budget.lease(len(data), "peer")
        assert lease is not None
        assert gunzip(data, max(size, 1), lease) == body
        assert lease.size == budget.used == size


@given(st.binary(min_size=1), st.data())
def test_every_prefix_is_truncated(body: bytes, data: st.DataObject) -> None:
    packed = gzip([body])
    length = data.draw(st.integers(0, len(packed) - 1))
    with pytest.raises(StatusError, match="gzip") as caught:
        gunzip(packed[:length], NO_LIMIT, None)
    assert caught.value.code is Code.INVALID_ARGUMENT


@given(st.binary(min_size=1, max_size=200), st.data())
def test_a_flipped_bit_never_gives_other_bytes(body: bytes, data: st.DataObject) -> None:
    packed = bytearray(gzip([body]))
    bit = data.draw(st.integers(0, 8 * len(packed) - 1))
    packed[bit // 8] ^= 1 << bit % 8
    try:
        assert gunzip(bytes(packed), NO_LIMIT, None) == body
    except StatusError as error:
        assert error.code is Code.INVALID_ARGUMENT  # noqa: PT017


@given(st.binary())
def test_any_bytes_give_bytes_or_a_status(data: bytes) -> None:
    try:
        gunzip(b"\x1f\x8b" + data, 1000, None)
    except StatusError as error:
        assert error.code in (Code.INVALID_ARGUMENT, Code.RESOURCE_EXHAUSTED)  # noqa: PT017


@pytest.mark.parametrize("size", [100, STEP, 2 * STEP + 5])
def test_the_limit_is_exact(size: int) -> None:
    packed = gzip([bytes(size)])
    assert gunzip(packed, size, None) == bytes(size)
    for data in (packed, gzip([bytes(size - 1)]) + gzip([b"x"])):
        with pytest.raises(StatusError) as caught:
            gunzip(data, size - 1, None)
        assert caught.value.code is Code.RESOURCE_EXHAUSTED
        assert not caught.value.retryable


def test_a_bomb_is_stopped_at_the_limit() -> None:
    bomb = gzip([bytes(64 * STEP)])
    budget = Budget(64 * STEP)
    lease = budget.lease(len(bomb), "peer")
    with pytest.raises(StatusError) as caught:
        gunzip(bomb, 4 * STEP, lease)
    assert caught.value.code is Code.RESOURCE_EXHAUSTED
    assert budget.used <= len(bomb) + 4 * STEP + 1


def test_a_size_that_lies_is_no_harm() -> None:
    for claimed in (0, 1, 5000, 2**32 - 1):
        packed = gzip([bytes(3000)])[:-4] + claimed.to_bytes(4, "little")
        with pytest.raises(StatusError, match="gzip") as caught:
            gunzip(packed, 10_000, None)
        assert caught.value.code is Code.INVALID_ARGUMENT


def test_without_room_it_fails_and_does_not_wait() -> None:
    packed = gzip([bytes(5 * STEP)])
    budget = Budget(len(packed) + 3 * STEP)
    lease = budget.lease(len(packed), "peer")
    with pytest.raises(StatusError) as caught:
        gunzip(packed, NO_LIMIT, lease)
    assert caught.value.code is Code.UNAVAILABLE
    assert caught.value.retry_delay is not None
    del lease
    caught = None  # type: ignore[assignment]
    assert budget.used == 0


def test_members_are_bounded() -> None:
    empty = gzip([b""])
    assert gunzip(empty * MAX_MEMBERS, 10, None) == b""
    with pytest.raises(StatusError, match="members") as caught:
        gunzip(empty * (MAX_MEMBERS + 1), 10, None)
    assert caught.value.code is Code.INVALID_ARGUMENT
