"""Laws of the store: any history of it, with crashes and decay, against a list."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from k8strace.segments import Place
from k8strace.store import Store
from tests.support.stores import LOG, abandon, files, flip, put, read_all, records_in, store

SIZES = st.one_of(st.integers(0, 200), st.integers(0, 9000), st.integers(16_000, 40_000))
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), SIZES),
        st.tuples(st.just("finish"), st.integers(0, 1000)),
        st.tuples(st.just("read"), st.just(0)),
        st.tuples(st.just("reopen"), st.just(0)),
        st.tuples(st.just("crash"), st.integers(0, 10_000)),
        st.tuples(st.just("flip"), st.integers(0, 10_000_000)),
    ),
    max_size=30,
)


class History:
    """What was done with a store, and what it has to hand out for it."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.one: Store = store(base)
        self.number = 0
        self.places: dict[bytes, Place] = {}
        self.alive: dict[bytes, None] = {}  # committed, neither finished nor hit
        self.gone: dict[bytes, None] = {}  # finished before a clean close
        self.finished: dict[bytes, None] = {}  # since then
        self.hit: set[bytes] = set()  # by decay, and not compared since
        self.has_decayed = False

    async def run(self, steps: list[tuple[str, int]]) -> None:
        await self.one.open()
        for step, value in steps:
            await getattr(self, step)(value)
        await self.reopen(0)
        await self.one.close()

    async def put(self, size: int) -> None:
        self.number += 1
        body = (b"%06d" % self.number) + bytes([self.number % 251]) * size
        self.places[body] = await put(self.one, body[:7], body[7:], meta=b"m" * (size % 9))
        self.alive[body] = None

    async def finish(self, which: int) -> None:
        if self.places:
            body = list(self.places)[which % len(self.places)]
            self.one.finish(self.places.pop(body))
            self.alive.pop(body, None)
            self.finished[body] = None

    async def read(self, _: int) -> None:
        """Reading is nothing that a store remembers when it is opened again."""
        await self.one.read()

    async def reopen(self, _: int) -> None:
        await self.one.close()
        self.gone |= self.finished
        await self.compare()

    async def crash(self, cut: int) -> None:
        """Its process is killed while it writes one record more."""
        while self.one._settler is not None:
            await asyncio.wait((self.one._settler,))
        before = {path: path.read_bytes() for path in files(self.base)}
        await put(self.one, b"torn" * (cut % 300))
        abandon(self.one)
        for path in files(self.base):
            start = before.get(path, b"")
            end = path.read_bytes()
            if start != end:
                first = next(
                    (
                        i
                        for i, pair in enumerate(zip(start, end, strict=False))
                        if pair[0] != pair[1]
                    ),
                    len(start),
                )
                written = len(end.rstrip(b"\0")) - first
                keep = first + cut % max(1, written - 8)
                path.write_bytes(end[:keep] + bytes(len(end) - keep))
        await self.compare()  # what was finished may come again: its mark may be lost

    async def flip(self, where: int) -> None:
        """A bit of a stored record decays, after a clean close."""
        await self.one.close()
        self.gone |= self.finished
        found = [
            (path, offset, size)
            for path in files(self.base)
            if path.suffix == ".segment"
            for offset, size in records_in(path)
        ]
        if found:
            path, offset, size = found[where % len(found)]
            data = path.read_bytes()[offset : offset + size]
            flip(path, offset + where // 7 % size, where % 8)
            self.hit = {body for body in {**self.alive, **self.gone} if body in data}
            self.has_decayed = True
        await self.compare()

    async def compare(self) -> None:
        """A store opened anew hands out what it has to, in order, and nothing else."""
        self.one = store(self.base)
        totals = await self.one.open()
        records = await read_all(self.one)
        assert totals.records == len(records) == self.one.records
        bodies = [record.body for record in records if record.intact]
        assert not (self.gone.keys() - self.hit).intersection(bodies)
        assert len(set(bodies)) == len(bodies)
        assert bodies == sorted(bodies)
        expected = [body for body in self.alive if body not in self.hit]
        assert [body for body in bodies if body in set(expected)] == expected
        for body in bodies:
            known = body in self.alive or body in self.finished or body in self.hit
            assert known or not body.strip(b"torn")
        for body in self.hit.difference(bodies):
            self.alive.pop(body, None)
        # What was finished and is there again may be finished again.
        self.alive = dict.fromkeys(bodies)
        self.gone = {body: None for body in self.gone if body not in self.alive}
        self.places = {record.body: record.place for record in records if record.intact}
        for record in records:
            if not record.intact:
                assert self.has_decayed
                self.one.finish(record.place)
        self.hit = set()
        self.finished.clear()


@given(STEPS)
@settings(deadline=None)
def test_laws_of_any_history(steps: list[tuple[str, int]]) -> None:
    base = Path(tempfile.mkdtemp())
    LOG.logger.disabled = True
    try:
        asyncio.run(History(base).run(steps))
    finally:
        LOG.logger.disabled = False
        shutil.rmtree(base)
