"""zlib, raw deflate, snappy and lz4: what others write is read, and nothing else."""

from __future__ import annotations

import contextlib
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import lz4.frame
import pytest
from hypothesis import given
from hypothesis import strategies as st

from k8strace._codec import (
    DEFLATE,
    INLINE,
    LZ4,
    MAX_MEMBERS,
    SNAPPY,
    SNAPPY_FRAMED,
    ZLIB,
    CodecError,
    Deflation,
    Inflation,
    LimitError,
)
from tests.support.snappy import (
    IDENTIFIER,
    block,
    chunk,
    content_of_block,
    content_of_frames,
    framed,
    masked_crc,
    varint,
)
from tests.test_codec import MIB, NO_LIMIT, deflate, inflate

GOLDEN = Path(__file__).parent / "data" / "encodings"
CONTENT = b"".join(b"span %d of the kubelet; " % number**2 for number in range(3000))


def raw_deflate(data: bytes, level: int = 6) -> bytes:
    stream = zlib.compressobj(level, wbits=-15)
    return stream.compress(data) + stream.flush()


def lz4_linked(data: bytes) -> bytes:
    """A frame of linked blocks, with every checksum, that does not say its size."""
    compressor = lz4.frame.LZ4FrameCompressor(
        block_linked=True,
        content_checksum=True,
        block_checksum=True,
        block_size=lz4.frame.BLOCKSIZE_MAX64KB,
    )
    return bytes(compressor.begin() + compressor.compress(data) + compressor.flush())


def small_chunks(data: bytes) -> bytes:
    return framed(data, 1000)


def lz4_alone(data: bytes) -> bytes:
    return bytes(
        lz4.frame.compress(data, block_linked=False, block_size=7, content_checksum=True)
    )


WRITERS: list[tuple[int, Callable[[bytes], bytes]]] = [
    (ZLIB, zlib.compress),
    (ZLIB, lambda data: zlib.compress(data, 0)),
    (ZLIB, lambda data: zlib.compress(data, 9, 9)),
    (DEFLATE, zlib.compress),
    (DEFLATE, raw_deflate),
    (DEFLATE, lambda data: raw_deflate(data, 0)),
    (SNAPPY, block),
    (SNAPPY, framed),
    (SNAPPY, lambda data: deflate(SNAPPY, data)),
    (SNAPPY_FRAMED, small_chunks),
    (SNAPPY_FRAMED, lambda data: deflate(SNAPPY, data)),
    (LZ4, lz4.frame.compress),
    (LZ4, lz4_linked),
    (LZ4, lz4_alone),
]
READ = sorted({encoding for encoding, _ in WRITERS})
NUMBERS = range(len(WRITERS))
IN_PYTHON = (block, framed, small_chunks)  # a second for each MiB


@pytest.mark.parametrize(
    ("name", "encodings"),
    [
        ("zlib", (ZLIB, DEFLATE)),
        ("flate", (DEFLATE,)),
        ("snappy-block", (SNAPPY,)),
        ("snappy-framed", (SNAPPY, SNAPPY_FRAMED)),
        ("lz4", (LZ4,)),
    ],
)
def test_what_go_writes(name: str, encodings: tuple[int, ...]) -> None:
    """By the libraries that the Collector uses: compress/*, golang/snappy, pierrec/lz4."""
    packed = (GOLDEN / f"go-{name}").read_bytes()
    for encoding in encodings:
        assert inflate(encoding, packed, len(CONTENT)) == CONTENT


def test_what_go_writes_of_nothing() -> None:
    assert inflate(LZ4, (GOLDEN / "go-lz4-empty").read_bytes()) == b""
    assert inflate(SNAPPY, b"") == inflate(SNAPPY_FRAMED, b"") == b""
    assert inflate(SNAPPY, b"\0") == b""


@given(st.lists(st.binary() | st.binary(min_size=2000, max_size=90_000), max_size=4))
def test_laws_others_read_our_snappy(parts: list[bytes]) -> None:
    assert content_of_frames(deflate(SNAPPY, *parts)) == b"".join(parts)


@given(st.sampled_from(NUMBERS), st.binary(max_size=3000), st.integers(1, 30))
def test_laws_what_others_write_is_read(number: int, seed: bytes, times: int) -> None:
    encoding, write = WRITERS[number]
    body = seed * times
    packed = write(body)
    assert inflate(encoding, packed) == body
    assert inflate(encoding, packed, len(body)) == body
    if body:
        with pytest.raises(LimitError):
            inflate(encoding, packed, len(body) - 1)


@given(st.sampled_from(NUMBERS), st.binary(max_size=3000), st.data())
def test_laws_every_prefix_is_truncated(
    number: int, body: bytes, data: st.DataObject
) -> None:
    """Not frames of snappy that end with a chunk, which nothing says are not all."""
    encoding, write = WRITERS[number]
    packed = write(body)
    length = data.draw(st.integers(0, len(packed) - 1))
    try:
        found = inflate(encoding, packed[:length])
    except CodecError:
        return
    assert encoding in (SNAPPY, SNAPPY_FRAMED)
    assert body.startswith(found)
    assert len(found) < len(body) or length <= len(IDENTIFIER)
    assert length == 0 or content_of_frames(packed[:length]) == found


@given(
    st.sampled_from(
        [one for one in NUMBERS if WRITERS[one][1] not in (block, raw_deflate)]
    ),
    st.binary(min_size=1, max_size=2000),
    st.data(),
)
def test_laws_mutated_bytes_are_errors_or_the_same(
    number: int, body: bytes, data: st.DataObject
) -> None:
    """What has a checksum cannot become other spans; the oracle says where it has none."""
    encoding, write = WRITERS[number]
    packed = bytearray(write(body))
    for _ in range(data.draw(st.integers(1, 3))):
        packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))
    changed = bytes(packed)
    try:
        found = inflate(encoding, changed, 100_000)
    except CodecError:
        return
    if found == body:
        return
    if encoding in (SNAPPY, SNAPPY_FRAMED) and changed.startswith(IDENTIFIER):
        assert content_of_frames(changed) == found
    elif encoding == SNAPPY:
        assert content_of_block(changed) == found
    elif encoding == LZ4:
        assert lz4.frame.decompress(changed) == found or not has_checksum(changed)
    elif encoding == DEFLATE:
        assert zlib.decompress(changed, -15) == found
    else:
        assert zlib.decompress(changed) == found


def has_checksum(frame: bytes) -> bool:
    return bool(frame[4] & 0x04)


@given(st.sampled_from(READ), st.binary(max_size=300), st.integers(0, 5000))
def test_laws_any_bytes_give_bytes_or_an_error(
    encoding: int, data: bytes, limit: int
) -> None:
    begins = {ZLIB: b"\x78\x9c", LZ4: b"\x04\x22\x4d\x18\x64\x40\xa7"}
    for body in (data, begins.get(encoding, IDENTIFIER) + data):
        with contextlib.suppress(CodecError):
            assert len(inflate(encoding, body, limit)) <= limit


@given(st.binary(max_size=200))
def test_laws_a_block_is_what_its_specification_says(data: bytes) -> None:
    try:
        expected = content_of_block(data)
    except (ValueError, IndexError):
        expected = None
    try:
        found = inflate(SNAPPY, data, MIB) if data else None
    except CodecError:
        return
    assert found == expected


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, MIB + 1, 5 * MIB])
def test_any_size(number: int, size: int) -> None:
    encoding, write = WRITERS[number]
    size = min(size, 100_000) if write in IN_PYTHON else size
    for body in (bytes(size), os.urandom(min(size, 70_000)) + bytes(max(0, size - 70_000))):
        assert inflate(encoding, write(body), max(size, 1)) == body


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, 3 * MIB])
@pytest.mark.parametrize("random", [True, False])
def test_snappy_of_any_size_and_pieces(size: int, random: bool) -> None:
    body = os.urandom(size) if random else bytes(size)
    for parts in ((body,), (body[:7], b"", body[7:]), (body[:70_000], body[70_000:])):
        packed = deflate(SNAPPY, *parts)
        assert inflate(SNAPPY, packed, max(size, 1)) == body
        if random:
            chunks = size // 65_536 + 1
            assert len(packed) <= size + 10 + 8 * chunks


def test_frames_of_lz4_and_snappy_are_concatenated() -> None:
    for encoding, write in WRITERS:
        packed = write(b"spans") + write(b" and more")
        if encoding == LZ4 or packed.startswith(IDENTIFIER):
            assert inflate(encoding, packed, 14) == b"spans and more"
        else:
            with pytest.raises(CodecError):
                inflate(encoding, packed)


def lz4_skippable(content: bytes) -> bytes:
    return struct.pack("<II", 0x184D2A57, len(content)) + content


def test_what_may_be_skipped() -> None:
    packed = lz4_alone(b"spans")
    assert inflate(LZ4, lz4_skippable(b"what?") + packed + lz4_skippable(b"")) == b"spans"
    with pytest.raises(CodecError, match="lz4: truncated"):
        inflate(LZ4, packed + lz4_skippable(b"what?")[:-1])
    frames = framed(b"spans") + chunk(0xFE, b"\0" * 9) + chunk(0x80, b"what?")
    assert inflate(SNAPPY, frames + framed(b"!")) == b"spans!"


def test_members_of_lz4_are_bounded() -> None:
    for empty in (lz4_linked(b""), lz4_skippable(b"")):
        assert inflate(LZ4, empty * MAX_MEMBERS, 10) == b""
        with pytest.raises(CodecError, match="lz4: more than 4096 members"):
            inflate(LZ4, empty * (MAX_MEMBERS + 1), 10)


SPAN = framed(b"spans")
CRC = masked_crc(b"spans").to_bytes(4, "little")


@pytest.mark.parametrize(
    ("encoding", "data", "text"),
    [
        (ZLIB, b"", "zlib: truncated"),
        (ZLIB, zlib.compress(b"spans")[:-1], "zlib: truncated"),
        (ZLIB, raw_deflate(b"spans"), "zlib: it does not begin with a zlib header"),
        (ZLIB, zlib.compress(b"spans")[:-1] + b"x", "zlib: checksum or size"),
        (ZLIB, b"\x78\xbb" + bytes(20), "zlib: a dictionary would be needed"),
        (ZLIB, zlib.compress(b"spans") + b"x", "zlib: data stands behind its end"),
        (DEFLATE, b"", "deflate: truncated"),
        (DEFLATE, zlib.compress(b"spans") + bytes(9), "deflate: data stands behind"),
        (DEFLATE, raw_deflate(b"spans") + b"x", "deflate: data stands behind its end"),
        (DEFLATE, raw_deflate(b"spans") * 2, "deflate: data stands behind its end"),
        (DEFLATE, raw_deflate(b"spans")[:-1], "deflate: truncated"),
        (DEFLATE, b"\x07trailing", "deflate: invalid data"),
        (SNAPPY, b"\x80", "snappy: a block's length is truncated or invalid"),
        (SNAPPY, varint(1 << 29) + b"\0a", "snappy: .* cannot have the size that it says"),
        (SNAPPY, block(b"spans")[:-1], "snappy: a block is truncated or invalid"),
        (SNAPPY, block(b"spans") + b"\0x", "snappy: a block is truncated or invalid"),
        (SNAPPY_FRAMED, block(b"spans"), "snappy: frames do not begin with a stream"),
        (SNAPPY_FRAMED, SPAN[10:], "snappy: frames do not begin with a stream"),
        (SNAPPY, SPAN[:-1], "snappy: truncated"),
        (SNAPPY, SPAN + b"\0", "snappy: truncated"),
        (SNAPPY, SPAN + chunk(0xFF, b"sNaPpy"), "snappy: a stream identifier is wrong"),
        (SNAPPY, SPAN + chunk(0xFF, b"sNaPpYx"), "snappy: a stream identifier is wrong"),
        (SNAPPY, SPAN + chunk(0x02, b"spans"), "snappy: a chunk is of an unknown kind"),
        (SNAPPY, SPAN + chunk(1, CRC[:3]), "snappy: a chunk is shorter than its"),
        (SNAPPY, SPAN + chunk(0, CRC), "snappy: a block's length"),
        (SNAPPY, SPAN + chunk(1, CRC + b"spams"), "snappy: a chunk's checksum"),
        (SNAPPY, SPAN + chunk(0, CRC + block(b"spams")), "snappy: a chunk's checksum"),
        (SNAPPY, SPAN + chunk(1, CRC + bytes(65_537)), "snappy: a chunk has more than 64"),
        (LZ4, b"", "lz4: truncated"),
        (LZ4, lz4_alone(b"spans")[:-1], "lz4: truncated"),
        (LZ4, lz4_alone(b"spans") + b"trailing", "lz4: there is no frame where one should"),
        (LZ4, b"\x02\x21\x4c\x18" + bytes(9), "lz4: there is no frame where one should"),
        (LZ4, lz4_alone(b"spans")[:4] + b"\x65\x40" + bytes(9), "lz4: a dictionary"),
        (LZ4, lz4_alone(b"spans")[:4] + b"\x64\x30" + bytes(9), "lz4: .* size of blocks"),
        (LZ4, lz4_alone(b"spans")[:-1] + b"x", "lz4: ERROR_contentChecksum_invalid"),
    ],
)
def test_what_is_malformed_is_named(encoding: int, data: bytes, text: str) -> None:
    with pytest.raises(CodecError, match=text):
        inflate(encoding, data)


@pytest.mark.parametrize("number", NUMBERS)
def test_a_bomb_is_stopped_at_the_limit(number: int) -> None:
    encoding, write = WRITERS[number]
    packed = write(bytes(400_000 if write in IN_PYTHON else 32 * MIB))
    limit = 300_000
    with pytest.raises(LimitError, match="larger than 300000"):
        inflate(encoding, packed, limit)
    with contextlib.suppress(LimitError):
        work = Inflation(encoding, packed, limit)
        while not work.is_done:
            assert work.need <= limit + 1 + 9 * MIB  # of lz4, with two blocks of 4 MiB
            work.run()
            assert work.size <= limit + 1


def test_what_says_that_it_is_too_large_is_not_begun() -> None:
    for encoding, packed in ((SNAPPY, block(bytes(5000))), (LZ4, lz4_alone(bytes(5000)))):
        with pytest.raises(LimitError, match="larger than 4999"):
            Inflation(encoding, packed, 4999)
        work = Inflation(encoding, packed, 5000)
        assert not work.is_done


def test_what_claims_more_than_it_can_hold_reserves_nothing() -> None:
    header = b"\x04\x22\x4d\x18\x6c\x40" + (1 << 29).to_bytes(8, "little")
    with pytest.raises(CodecError, match="cannot have the size"):
        Inflation(LZ4, header + b"\0\0\0\0\0", NO_LIMIT)
    with pytest.raises(CodecError, match="cannot have the size"):
        Inflation(SNAPPY, varint(100_000) + b"\0a", NO_LIMIT)
    with pytest.raises(CodecError, match="cannot have the size"):
        Inflation(SNAPPY, IDENTIFIER + chunk(0, CRC + varint(60_000) + b"\0a"), NO_LIMIT)


def test_what_it_needs_is_asked_for_in_steps() -> None:
    for encoding, packed in (
        (SNAPPY, deflate(SNAPPY, bytes(5 * MIB))),
        (LZ4, lz4_linked(bytes(5 * MIB))),
        (ZLIB, zlib.compress(bytes(5 * MIB))),
    ):
        work = Inflation(encoding, packed, NO_LIMIT)
        needs = []
        while not work.is_done:
            needs.append(work.need)
            work.run()
        assert needs == sorted(needs)
        assert needs[0] < MIB // 2
        assert needs[-1] <= 5 * MIB * 5 // 4 + MIB
    exact = [(SNAPPY, block(bytes(90_000)), 90_000), (SNAPPY, framed(b"spans"), 5)]
    for encoding, packed, size in exact:
        work = Inflation(encoding, packed, NO_LIMIT)
        assert (work.need, work.is_large) == (size, False)


def test_what_is_large() -> None:
    assert Inflation(SNAPPY, os.urandom(INLINE + 1), NO_LIMIT).is_large
    assert Inflation(LZ4, lz4_alone(bytes(INLINE + 1)), NO_LIMIT).is_large
    assert not Inflation(LZ4, lz4_alone(bytes(INLINE)), NO_LIMIT).is_large
    assert not Inflation(ZLIB, zlib.compress(bytes(INLINE)), NO_LIMIT).is_large
    assert Deflation(SNAPPY, (bytes(INLINE), b"x")).is_large


def test_what_is_not_written() -> None:
    for encoding in (ZLIB, DEFLATE, SNAPPY_FRAMED, LZ4):
        with pytest.raises(ValueError, match="no encoding"):
            Deflation(encoding, (b"spans",))


def test_contexts_are_used_again_after_what_failed() -> None:
    noise = os.urandom(300_000)
    for encoding, write in WRITERS:
        if write in IN_PYTHON:
            continue
        for length in (100_000, 200_000):
            with contextlib.suppress(CodecError):
                inflate(encoding, write(noise)[:length])
            for again, write_again in WRITERS:
                assert inflate(again, write_again(b"spans")) == b"spans"
