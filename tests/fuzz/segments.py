"""Segments of a store as decay and crashes could leave them: any bytes behind a head.

The first byte of an input is a set of choices. What fails its checksum is found by chance
alone; so that more is found, checksums can be made right first.
"""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
import zlib
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from k8strace._store import (
    CORRUPT,
    FIRST_RECORD,
    FORMAT,
    LOST,
    RECORD,
    Scan,
    crc32c,
    read_head,
    record_size,
)
from k8strace.store import Store
from tests.support import stores
from tests.support.stores import files, read_all

# Choices: headers' checksums are right, and bodies' too; a whole record follows; it is the
# store that reads; there is no head but what the input has.
REPAIRED, INTACT, FOLLOWED, STORED, HEADLESS = (1 << bit for bit in range(5))

HEAD = stores.HEAD
HEAD_MAGIC = 0x316765735338F501
RECORD_MAGIC = 0x8B53B1E7
DONE_MAGIC = 0x5A3CD09E
TRAILER = (0xE57A917D).to_bytes(8, "little")
DONE = 1  # in an input: to be marked as done
FROM = 12  # where in a record begins what its header's checksum is of
BODY = b"the record that follows"
MASK = 0xFFFFFFFF

LOG = logging.LoggerAdapter(logging.getLogger("k8strace.fuzz"), {"component": "fuzz"})
LOG.logger.disabled = True


class Row(NamedTuple):
    """What a scan found, as `Scan.found` says."""

    what: int
    offset: int
    size: int
    mark: int
    time: int
    spans: int
    length: int
    meta: bytes
    body: bytes


def segment(data: bytes) -> None:
    """What is read fails no checksum, is counted, and is read once; nothing is passed over.

    Which pieces it is read in makes no difference.
    """
    if not data:
        return
    choices, content = data[0], data[1:]
    salt = zlib.crc32(data)
    if choices & REPAIRED:
        content = repaired(content, salt, bool(choices & INTACT))
    if choices & FOLLOWED:
        content = followed(content, salt)
    whole = content if choices & HEADLESS else head(salt) + content
    check_head(whole)
    if choices & STORED:
        asyncio.run(stored(whole))
        return
    rows = scanned(whole, salt)
    if choices & FOLLOWED and not choices & (REPAIRED | HEADLESS):
        *lost, last = rows
        assert all(row.what == LOST for row in lost)
        assert (last.what, last.spans, last.body) == (RECORD, 7, BODY)


def record(salt: int, id_: int, body: bytes, spans: int) -> bytes:
    """One as it is written."""
    bare = stores.RECORD.pack(RECORD_MAGIC, 0, 0, 0, id_, 1, len(body), spans, 0) + body
    bare = bare.ljust(record_size(0, len(body)) - len(TRAILER), b"\0") + TRAILER
    return repaired(bare, salt, True)


def head(salt: int) -> bytes:
    packed = HEAD.pack(HEAD_MAGIC, FORMAT, salt, 1)
    return (packed + crc32c(packed).to_bytes(4, "little")).ljust(FIRST_RECORD, b"\0")


def salted(salt: int, data: bytes | bytearray) -> int:
    return crc32c(data, ~salt & MASK)


def repaired(content: bytes, salt: int, bodies: bool) -> bytes:
    """The same with checksums that are right wherever a record could begin."""
    made = bytearray(content)
    for at in range(0, len(made) - stores.RECORD.size + 1, 8):
        magic, done, _, body_crc, *rest, length, spans, meta = stores.RECORD.unpack_from(
            made, at
        )
        if magic != RECORD_MAGIC:
            continue
        begin = at + stores.RECORD.size
        if bodies and begin + meta + length <= len(made):
            body_crc = salted(salt, made[begin : begin + meta + length])
        fields = (*rest, length, spans, meta)
        stores.RECORD.pack_into(made, at, magic, done, 0, body_crc, *fields)
        crc = salted(salt, made[at + FROM : begin])
        done = (crc ^ DONE_MAGIC or DONE_MAGIC) if done == DONE else done
        stores.RECORD.pack_into(made, at, magic, done, crc, body_crc, *fields)
    return bytes(made)


def followed(content: bytes, salt: int) -> bytes:
    padded = content + bytes(-len(content) % 8)
    return padded + record(salt, (1 << 64) - 1, BODY, 7)


def check_head(whole: bytes) -> None:
    block = whole[:FIRST_RECORD]
    found = read_head(block)
    assert found is None or any(
        HEAD.unpack_from(block, at) == (HEAD_MAGIC, found[2], found[1], found[0])
        and crc32c(block[at : at + HEAD.size]).to_bytes(4, "little")
        == block[at + HEAD.size : at + HEAD.size + 4]
        for at in (0, FIRST_RECORD // 2)
    )


def scanned(whole: bytes, salt: int) -> list[Row]:
    """What is found in a segment, checked; counted, and read in two ways."""
    fd = os.memfd_create("segment")
    try:
        os.write(fd, whole)
        size = len(whole)
        count = Scan(fd, size, salt)
        count.run()
        assert count.error == 0
        end = size if count.torn_at is None else count.torn_at
        rows = read(fd, end, salt, 1 << 20)
        assert rows == read(fd, end, salt, 1)
    finally:
        os.close(fd)
    assert count.totals == (
        len(rows),
        sum(row.spans for row in rows),
        sum(row.length for row in rows),
    )
    check(rows, whole, salt)
    return rows


def read(fd: int, end: int, salt: int, most: int) -> list[Row]:
    rows: list[Row] = []
    offset, last_id = FIRST_RECORD, 0
    while offset < end:
        scan = Scan(fd, end, salt, offset, last_id, most)
        scan.run()
        assert scan.error == 0
        assert scan.offset > offset, "it stays where it is"
        rows += [Row(*row) for row in scan.found()]
        offset, last_id = scan.offset, scan.last_id
    return rows


def check(rows: list[Row], whole: bytes, salt: int) -> None:
    assert all(a.offset + a.size <= b.offset for a, b in pairwise(rows))
    ids = []
    for row in rows:
        assert row.what in (RECORD, CORRUPT, LOST)
        assert row.size > 0
        if row.what == LOST:
            assert any(whole[row.offset : row.offset + row.size])
            continue
        id_, intact = judged(whole, row.offset, salt)
        ids.append(id_)
        assert (row.what == RECORD) == intact
        if intact:
            begin = row.offset + stores.RECORD.size
            end = begin + len(row.meta) + row.length
            assert row.meta + row.body == whole[begin:end]
            assert len(row.body) == row.length
    assert all(a < b for a, b in pairwise(ids)), "a record comes twice"


def judged(whole: bytes, at: int, salt: int) -> tuple[int, bool]:
    """A record's id, and whether its bytes are what they were; its header has to be."""
    magic, done, crc, body_crc, id_, _, length, _, meta = stores.RECORD.unpack_from(
        whole, at
    )
    begin = at + stores.RECORD.size
    assert magic == RECORD_MAGIC
    assert salted(salt, whole[at + FROM : begin]) == crc
    assert done != (crc ^ DONE_MAGIC or DONE_MAGIC), "it was done"
    return id_, salted(salt, whole[begin : begin + meta + length]) == body_crc


async def stored(whole: bytes) -> None:
    """A store that has the segment hands out what the segment has, once, and is empty."""
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        path = base / "0" / "0000000000000001.segment"
        path.parent.mkdir()
        path.write_bytes(whole)
        known = read_head(whole)
        one = Store(base, LOG)
        if known is not None and known[2] != FORMAT:
            with suppress(OSError):
                await one.open()
                raise AssertionError("it is of another version")
            await one.close()
            return
        totals = await one.open()
        records = await read_all(one)
        assert totals.records == len(records) == one.records
        rows = [] if known is None else scanned(whole, known[1])
        assert [(row.what == RECORD, row.spans, row.meta, row.body) for row in rows] == [
            (found.intact, found.spans, found.meta, found.body) for found in records
        ]
        for found in records:
            one.finish(found.place)
        await one.close()
        assert [path for path in files(base) if path.suffix == ".segment"] == []
