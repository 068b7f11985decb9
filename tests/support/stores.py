"""Stores in a test's folder: put, read, finish, and what crashes and decay leave behind."""

from __future__ import annotations

import asyncio
import logging
import os
import struct
from collections.abc import Iterator
from pathlib import Path

from k8strace._store import FIRST_RECORD
from k8strace.segments import Place
from k8strace.store import Store, Stored

LOG = logging.LoggerAdapter(logging.getLogger("k8strace"), {"component": "test"})
HEAD = struct.Struct("<Q2IQ")  # and its checksum
RECORD = struct.Struct("<4I3Q2I")
DONE_AT = 4  # where in a record its mark stands


def store(base: Path, **options: int) -> Store:
    return Store(base, LOG, **{"segment_size": 16 * 1024, **options})  # type: ignore[arg-type]


async def put(
    one: Store, *chunks: bytes, meta: bytes = b"", spans: int = 1, keep: bool = False
) -> Place:
    """Store a record; raises OSError where that cannot be."""
    done: asyncio.Future[Place | OSError] = asyncio.get_running_loop().create_future()

    def committed(stored: Place | OSError, is_next: bool) -> bool:
        done.set_result(stored)
        return keep and is_next

    one.put(meta, chunks, spans, committed)
    result = await done
    if isinstance(result, OSError):
        raise result
    return result


async def read_all(one: Store) -> list[Stored]:
    found: list[Stored] = []
    while records := await one.read():
        found += records
    return found


def abandon(one: Store) -> None:
    """Let go of a store as a process does that is killed: nothing is said to anybody."""
    for segment in one._segments.values():
        os.close(segment.fd)
    for folder in one._folders.values():
        os.close(folder.fd)


def records_in(path: Path) -> Iterator[tuple[int, int]]:
    """Where the records of an undamaged segment stand: offset and size."""
    data = path.read_bytes()
    offset = FIRST_RECORD
    while offset + RECORD.size <= len(data):
        magic, _, _, _, _, _, length, _, meta = RECORD.unpack_from(data, offset)
        if not magic:
            return
        size = -(-(RECORD.size + meta + length) // 8) * 8 + 8
        yield offset, size
        offset += size


def flip(path: Path, offset: int, bit: int = 0) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1 << bit]))


def files(base: Path) -> list[Path]:
    return sorted(path for path in base.rglob("*") if path.is_file())
