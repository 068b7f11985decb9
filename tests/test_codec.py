"""Laws of gzip and zstd in steps, with other implementations as the oracles."""

from __future__ import annotations

import contextlib
import gzip
import os
import zlib
from collections.abc import Callable

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from isal import igzip_lib

from k8strace._codec import (
    GZIP,
    IDENTITY,
    INLINE,
    MAX_MEMBERS,
    MAX_WINDOW,
    ZSTD,
    Codec,
    CodecError,
    Deflation,
    Inflation,
    LimitError,
)

MIB = 1024 * 1024
NO_LIMIT = 1 << 30
IGZIP = igzip_lib.COMP_GZIP  # and igzip_lib.DECOMP_GZIP
ENCODINGS = [GZIP, ZSTD]

encodings = st.sampled_from(ENCODINGS)
chunks = st.lists(st.binary() | st.binary(min_size=2000, max_size=9000), max_size=12)


def whole(work: Codec) -> bytes:
    while not work.is_done:
        work.run()
    return work.take()


def inflate(encoding: int, data: bytes, limit: int = NO_LIMIT) -> bytes:
    return whole(Inflation(encoding, data, limit))


def deflate(encoding: int, *parts: bytes) -> bytes:
    return whole(Deflation(encoding, parts))


def zstd_streamed(data: bytes, level: int = 3, *, checksum: bool = False) -> bytes:
    """A frame that doesn't say how long its content is."""
    stream = zstandard.ZstdCompressor(
        level, write_content_size=False, write_checksum=checksum
    ).compressobj()
    return stream.compress(data) + stream.flush()


def zstd_window(log: int) -> bytes:
    parameters = zstandard.ZstdCompressionParameters(
        window_log=log, write_content_size=False
    )
    stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    return stream.compress(b"spans") + stream.flush()


WRITERS: list[tuple[int, Callable[[bytes], bytes]]] = [
    (GZIP, gzip.compress),
    (GZIP, lambda data: gzip.compress(data, 1)),
    (GZIP, lambda data: gzip.compress(data, 0)),
    (GZIP, lambda data: igzip_lib.compress(data, 3, IGZIP)),
    (GZIP, lambda data: zlib.compress(data, wbits=31)),
    (ZSTD, zstandard.ZstdCompressor().compress),
    (ZSTD, zstandard.ZstdCompressor(19, write_checksum=True).compress),
    (ZSTD, zstd_streamed),
    (ZSTD, lambda data: zstd_streamed(data, 1, checksum=True)),
]


@given(encodings, chunks)
def test_laws_what_is_compressed_others_read(encoding: int, parts: list[bytes]) -> None:
    packed = deflate(encoding, *parts)
    body = b"".join(parts)
    assert inflate(encoding, packed) == body
    if encoding == GZIP:
        assert gzip.decompress(packed) == igzip_lib.decompress(packed, IGZIP) == body
    else:
        assert zstandard.get_frame_parameters(packed).has_checksum
        assert zstandard.ZstdDecompressor().decompress(packed) == body


@given(st.data(), st.lists(st.binary(max_size=5000), min_size=1, max_size=5))
def test_laws_what_others_write_is_read(data: st.DataObject, parts: list[bytes]) -> None:
    encoding = data.draw(encodings)
    writers = st.sampled_from([write for kind, write in WRITERS if kind == encoding])
    packed = b"".join(data.draw(writers)(part) for part in parts)
    body = b"".join(parts)
    assert inflate(encoding, packed) == body
    assert inflate(encoding, packed, len(body)) == body
    if body:
        with pytest.raises(LimitError):
            inflate(encoding, packed, len(body) - 1)


@given(encodings, st.binary(max_size=3000), st.data())
def test_laws_every_prefix_is_truncated(
    encoding: int, body: bytes, data: st.DataObject
) -> None:
    streamed = encoding == ZSTD and data.draw(st.booleans())
    packed = zstd_streamed(body) if streamed else deflate(encoding, body)
    length = data.draw(st.integers(0, len(packed) - 1))
    with pytest.raises(CodecError, match=r"gzip: |zstd: "):
        inflate(encoding, packed[:length])


@given(encodings, st.binary(min_size=1, max_size=3000), st.data())
def test_laws_mutated_bytes_never_give_others(
    encoding: int, body: bytes, data: st.DataObject
) -> None:
    """Both have a checksum; a skippable frame, or a flag, can be made of a frame."""
    packed = bytearray(deflate(encoding, body))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(packed) - 1))
        packed[place] = data.draw(st.integers(0, 255))
    try:
        found = inflate(encoding, bytes(packed), 100_000)
    except CodecError:
        return
    if encoding == GZIP or zstandard.get_frame_parameters(bytes(packed)).has_checksum:
        assert found == body


@given(encodings, st.binary(max_size=300), st.integers(0, 5000))
def test_laws_any_bytes_give_bytes_or_an_error(
    encoding: int, data: bytes, limit: int
) -> None:
    magic = b"\x1f\x8b\x08" if encoding == GZIP else b"\x28\xb5\x2f\xfd"
    for body in (data, magic + data):
        with contextlib.suppress(CodecError):
            assert len(inflate(encoding, body, limit)) <= limit


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("size", [0, 1, 1023, 1024, 1025, 65_536, MIB, MIB + 1, 3 * MIB])
@pytest.mark.parametrize("random", [True, False])
def test_any_size(encoding: int, size: int, random: bool) -> None:
    body = os.urandom(size) if random else bytes(size)
    for parts in ((body,), (body[:7], b"", body[7:])):
        packed = deflate(encoding, *parts)
        assert inflate(encoding, packed, max(size, 1)) == body
        assert inflate(encoding, packed * 3, 3 * size) == body * 3


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_what_does_not_compress_gets_more_room(encoding: int) -> None:
    """Many small pieces that can't be made smaller, for the worst of overheads."""
    parts = [os.urandom(20_000) for _ in range(200)]
    packed = deflate(encoding, *parts)
    assert inflate(encoding, packed) == b"".join(parts)


def test_what_it_needs_is_asked_for_in_steps() -> None:
    streamed = zstd_streamed(bytes(5 * MIB))
    work = Inflation(ZSTD, streamed, NO_LIMIT)
    needs = []
    while not work.is_done:
        needs.append(work.need)
        work.run()
    assert needs == sorted(needs)
    assert needs[0] < 3 * MIB  # a window of 2 MiB, and little of the output
    assert needs[-1] <= 5 * MIB * 5 // 4 + 3 * MIB
    work = Inflation(ZSTD, deflate(ZSTD, bytes(100_000)), NO_LIMIT)
    assert (work.need, work.is_large) == (100_000, False)
    work = Inflation(GZIP, deflate(GZIP, bytes(100_000)), NO_LIMIT)
    assert (work.need, work.is_large) == (100_000, False)


def test_what_is_large() -> None:
    assert not Inflation(GZIP, deflate(GZIP, bytes(INLINE)), NO_LIMIT).is_large
    assert Inflation(GZIP, deflate(GZIP, bytes(INLINE + 1)), NO_LIMIT).is_large
    assert Inflation(GZIP, deflate(GZIP, os.urandom(INLINE)), NO_LIMIT).is_large
    assert Inflation(ZSTD, deflate(ZSTD, bytes(INLINE + 1)), NO_LIMIT).is_large
    assert not Deflation(ZSTD, (bytes(INLINE),)).is_large
    assert Deflation(ZSTD, (bytes(INLINE), b"x")).is_large


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_bomb_is_stopped_at_the_limit(encoding: int) -> None:
    bomb = bytes(64 * MIB)
    packed = gzip.compress(bomb) if encoding == GZIP else zstd_streamed(bomb, 1)
    for data in (packed, deflate(encoding, b"x") + packed):
        work = Inflation(encoding, data, 4 * MIB)
        with pytest.raises(LimitError, match="larger than 4194304"):
            whole(work)
        assert work.size <= 4 * MIB + 1
        assert work.need <= 4 * MIB + 1 + MIB  # with a window of 512 KiB


def test_a_frame_that_says_it_is_too_large_is_not_begun() -> None:
    with pytest.raises(LimitError, match="larger than 4194304"):
        Inflation(ZSTD, deflate(ZSTD, bytes(5 * MIB)), 4 * MIB)


@pytest.mark.parametrize("claimed", [0, 1, 5000, 2**32 - 1])
def test_a_size_that_lies_is_no_harm(claimed: int) -> None:
    packed = deflate(GZIP, bytes(3000))[:-4] + claimed.to_bytes(4, "little")
    with pytest.raises(CodecError, match="gzip: checksum or size"):
        inflate(GZIP, packed)


def test_a_frame_that_claims_what_it_cannot_hold() -> None:
    header = b"\x28\xb5\x2f\xfd" + b"\xe0" + (2**29).to_bytes(8, "little")
    with pytest.raises(CodecError, match="cannot have the size"):
        inflate(ZSTD, header + b"\x01\x00\x00")
    with pytest.raises(LimitError):
        inflate(ZSTD, header + b"\x01\x00\x00", 1000)


def test_members_are_bounded() -> None:
    for encoding in ENCODINGS:
        empty = deflate(encoding)
        assert inflate(encoding, empty * MAX_MEMBERS, 10) == b""
        with pytest.raises(CodecError, match="members"):
            inflate(encoding, empty * (MAX_MEMBERS + 1), 10)
    with pytest.raises(CodecError, match="members"):
        inflate(ZSTD, skippable(b"") * (MAX_MEMBERS + 1), 10)


def skippable(content: bytes) -> bytes:
    return b"\x5a\x2a\x4d\x18" + len(content).to_bytes(4, "little") + content


def test_skippable_frames_are_skipped() -> None:
    packed = deflate(ZSTD, b"spans")
    assert inflate(ZSTD, skippable(b"what?") + packed + skippable(b"") + packed) == (
        b"spansspans"
    )
    assert inflate(ZSTD, skippable(b"what?") * 2) == b""
    with pytest.raises(CodecError, match="zstd"):
        inflate(ZSTD, packed + skippable(b"what?")[:-1])


@pytest.mark.parametrize(
    ("encoding", "data", "text"),
    [
        (GZIP, b"", "gzip: truncated"),
        (ZSTD, b"", "zstd: truncated"),
        (GZIP, deflate(GZIP, b"spans") + b"trailing", "member where one should begin"),
        (GZIP, deflate(GZIP, b"spans") + bytes(8), "member where one should begin"),
        (ZSTD, deflate(ZSTD, b"spans") + b"trailing", "frame where one should begin"),
        (ZSTD, deflate(ZSTD, b"spans") + b"\0", "truncated"),
        (GZIP, b"\x1f\x8b\x07" + bytes(20), "another method"),
        (GZIP, b"\x1f\x8b\x08\x20" + deflate(GZIP, b"spans")[4:], "flags"),
        (
            ZSTD,
            b"\x27\xb5\x2f\xfd" + bytes(20),
            "frame where one should begin",
        ),  # of version 0.7
        (ZSTD, b"\x28\xb5\x2f\xfd\x21", "header"),
    ],
)
def test_what_is_malformed_is_named(encoding: int, data: bytes, text: str) -> None:
    with pytest.raises(CodecError, match=text):
        inflate(encoding, data)


def test_dictionaries_are_not_taken() -> None:
    samples: list[bytes | bytearray | memoryview] = [
        b"span %d of the kubelet" % number * 9 for number in range(1000)
    ]
    trained = zstandard.train_dictionary(4096, samples)
    packed = zstandard.ZstdCompressor(dict_data=trained).compress(samples[7])
    with pytest.raises(CodecError, match="zstd: a dictionary"):
        inflate(ZSTD, packed)


def test_windows_are_bounded() -> None:
    assert MAX_WINDOW == 1 << 23
    assert inflate(ZSTD, zstd_window(23)) == b"spans"
    with pytest.raises(CodecError, match="zstd: a window of more than 8 MiB"):
        inflate(ZSTD, zstd_window(24))
    work = Inflation(ZSTD, zstd_window(23), NO_LIMIT)
    assert work.need > MAX_WINDOW


def test_what_was_left_in_a_context_is_no_part_of_the_next() -> None:
    """Contexts are used again, also those of what failed half way."""
    for body in (zstd_streamed(os.urandom(300_000)), gzip.compress(os.urandom(300_000))):
        encoding = GZIP if body[0] == 0x1F else ZSTD
        for length in (100_000, 200_000):
            with pytest.raises(CodecError, match="truncated"):
                inflate(encoding, body[:length])
            assert inflate(encoding, deflate(encoding, b"spans")) == b"spans"
            assert inflate(ZSTD, zstd_streamed(b"spans")) == b"spans"


def test_what_is_no_encoding() -> None:
    for encoding in (IDENTITY, 99, -1):
        with pytest.raises(ValueError, match="no encoding"):
            Inflation(encoding, b"", 0)
        with pytest.raises(ValueError, match="no encoding"):
            Deflation(encoding, ())


def test_what_cannot_be_done() -> None:
    for work in (Codec(), done := Deflation(GZIP, (b"spans",))):
        if work is done:
            work.run()
        assert not work.is_large
        with pytest.raises(ValueError, match="nothing to do"):
            work.run()
    with pytest.raises(TypeError):
        Deflation(ZSTD, (b"spans", None))  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        Inflation(ZSTD, bytearray(b"spans"), 10)  # type: ignore[arg-type]


def test_output_is_taken_once_it_is_here() -> None:
    work = Deflation(GZIP, (b"spans",))
    with pytest.raises(ValueError, match="not here"):
        work.take()
    assert work.size == 0
    work.run()
    assert work.size == len(work.take())
    with pytest.raises(ValueError, match="not here"):
        work.take()
