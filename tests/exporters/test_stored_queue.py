"""A sending queue on disk, as senders, metrics and the next process see it."""

from __future__ import annotations

import asyncio
import gc
import resource
import shutil
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from k8strace.budget import MAX_RETRY_AFTER
from k8strace.component import ComponentID, Promise
from k8strace.config import decode
from k8strace.errors import ConfigError, RefusedError, RejectedError
from k8strace.exporters import _stored_queue
from k8strace.exporters._queue import QueueConfig
from k8strace.exporters._stored_queue import Facts, decode_facts, encode_facts
from k8strace.extensions.file_storage import Config, FileStorage
from k8strace.payload import Origin, Payload, Source
from k8strace.store import Store
from tests.support.pipeline import (
    Drive,
    assert_at_rest,
    both_drivers,
    cancel,
    context,
    failure,
    payload,
    until,
)
from tests.support.sending import FAST_RETRY, Rig, Scripted
from tests.support.stores import files, flip, put, records_in
from tests.support.stores import store as plain_store

OLD_STORE = Path(__file__).parent.parent / "data" / "store"
ID = ComponentID("file_storage")
TRACES = {"data_type": "traces"}
SMALL_SEGMENT = 64 * 1024


@asynccontextmanager
async def stored(
    base: Path, *, gate: bool = True, **queue: Any
) -> AsyncIterator[Rig[Scripted]]:
    """A started exporter with a store below `base`; at its end the accounting holds."""
    storage = FileStorage(
        Config(directory=str(base)), context("extensions", "file_storage")
    )
    values = {
        "sending_queue": {"storage": "file_storage", **queue},
        "retry_on_failure": FAST_RETRY,
    }
    rig = Rig(Scripted, values, extensions={ID: storage})
    if not gate:
        rig.exporter.gate.clear()
    await storage.start()
    gc.collect()
    gc.disable()
    try:
        await rig.exporter.start()
        try:
            yield rig
        finally:
            await rig.stop(0.2 if not rig.exporter.gate.is_set() else 10)
            await storage.stop(0)
        assert_at_rest(rig.ledger)
        await asyncio.sleep(0)
        assert rig.budget.used == 0
    finally:
        gc.enable()


@pytest.fixture(autouse=True)
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Store.__init__

    def init(self: Store, *args: Any, **options: Any) -> None:
        plain(self, *args, **{"segment_size": SMALL_SEGMENT, **options})

    monkeypatch.setattr(Store, "__init__", init)


@contextmanager
def full_disk() -> Iterator[None]:
    """No file can grow beyond a few bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_storage_and_waiting_for_the_result_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match="`wait_for_result` and `storage` cannot be used"):
        decode(QueueConfig, {"storage": "file_storage", "wait_for_result": True})


@pytest.mark.parametrize("extensions", [{}, {ID: object()}], ids=["none", "another"])
def test_an_extension_that_is_no_storage(extensions: Any) -> None:
    values = {"sending_queue": {"storage": "file_storage"}}
    with pytest.raises(ValueError, match="file_storage is not a storage extension that"):
        Rig(Scripted, values, extensions=extensions)


@both_drivers
async def test_an_answer_means_that_it_is_on_disk(drive: Drive, tmp_path: Path) -> None:
    async with stored(tmp_path, gate=False) as rig:
        assert rig.exporter.promise is Promise.STORED
        await drive(rig.send(3))
        (path,) = [one for one in files(tmp_path) if one.suffix == ".segment"]
        assert len(list(records_in(path))) == 1
        assert (rig.source.sent, rig.ledger.parked, rig.ledger.sent) == (3, 3, 0)
        assert rig.value("otelcol_exporter_queue_size", **TRACES) == 1
        assert rig.value("k8strace_store_records") == 1
        assert rig.value("k8strace_store_bytes") == SMALL_SEGMENT
        assert rig.value("k8strace_store_committed_records_total") == 1
        assert rig.value("k8strace_store_commit_seconds_count") == 1
        rig.exporter.gate.set()
        await rig.settled()
        assert rig.value("k8strace_store_records") == 0
        assert rig.value("k8strace_exporter_queue_bytes") == 0
    assert [one.name for one in files(tmp_path)] == ["k8strace.lock"]


async def test_what_is_stored_is_recovered_with_its_senders(tmp_path: Path) -> None:
    async with stored(tmp_path, gate=False) as rig:
        await rig.send(2)
        await rig.edge(Payload.join([rig.payload(3), rig.payload(4)]))
    assert rig.ledger.stored == 9
    assert rig.ledger.dropped == {}
    sources: list[list[str]] = []

    async def look(given: Payload) -> None:
        sources.append([one.origin.peer for one in given.sources if one.origin])
        if len(given.sources) == 2:
            raise RejectedError("split it")
        assert given.origin is not None

    async with stored(tmp_path) as again:
        again.exporter.answer = look
        assert again.ledger.recovered == 9
        assert again.value("k8strace_store_recovered_spans_total") == 9
        assert again.value("otelcol_exporter_queue_size", **TRACES) == 2
        await again.settled()
        assert again.ledger.sent == 9
    assert max(sources, key=len) == ["10.0.0.2:1", "10.0.0.3:1"]
    assert sorted(map(len, again.exporter.attempts)) == [2, 3, 4, 7]


async def test_what_small_records_and_their_metadata_take_is_in_the_window(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_stored_queue, "LEAST_READ", 4096)
    origin = Origin("10.0.0.1:1", metadata=(("tenant", "t" * 1000),) * 5)
    count = 200
    async with stored(tmp_path, gate=False, num_consumers=1) as rig:
        for _ in range(count):
            one = structs.replace(rig.payload(1), origin=origin)
            await rig.edge(one)
        del one
    assert rig.ledger.stored == count

    monkeypatch.setattr(_stored_queue, "WINDOW", 100_000)
    async with stored(tmp_path, gate=False, num_consumers=1) as again:
        await until(lambda: again.budget.used > 50_000)
        again.exporter.gate.set()
        peak = 0

        def is_sent() -> bool:
            nonlocal peak
            peak = max(peak, again.budget.used)
            return again.ledger.sent == count

        await until(is_sent)
        # The window, what is read into it at once, and what is sent.
        assert peak < 150_000 < count * origin.cost


async def test_what_is_stored_beyond_the_window_is_in_no_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_stored_queue, "WINDOW", 6000)
    async with stored(tmp_path, gate=False, num_consumers=1) as rig:
        for _ in range(60):
            await rig.send(3)
        assert rig.budget.used < 9000 < rig.value("k8strace_exporter_queue_bytes")
        rig.exporter.gate.set()
        await rig.settled()
        assert rig.ledger.sent == 180
        ids = [one for attempt in rig.exporter.attempts for one in attempt]
        assert ids == sorted(ids)
        await rig.send(3)
        await rig.settled()


async def test_batches_behind_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_stored_queue, "WINDOW", 6000)
    batch = {"min_size": 1000, "flush_timeout": "1h"}
    async with stored(tmp_path, batch=batch) as rig:
        for _ in range(100):
            await rig.send(3)
        # A batch of 1000 spans would not fit into the window: it goes when that is full.
        await rig.exporter.attempted(1)
    assert rig.ledger.sent + rig.ledger.stored == 300


async def test_a_stop_sends_what_is_in_memory_and_leaves_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_stored_queue, "WINDOW", 6000)
    async with stored(tmp_path, gate=False, num_consumers=1) as rig:
        for _ in range(60):
            await rig.send(3)
        rig.exporter.gate.set()
    assert 0 < rig.ledger.sent < 180
    assert rig.ledger.sent + rig.ledger.stored == 180
    async with stored(tmp_path) as again:
        await again.settled()
        assert again.ledger.sent == again.ledger.recovered == rig.ledger.stored


async def test_a_stop_does_not_try_again(tmp_path: Path) -> None:
    async with stored(tmp_path, gate=False, num_consumers=1) as rig:
        for _ in range(3):
            await rig.send(3)
        rig.exporter.failures = [RefusedError("busy") for _ in range(3)]
        await rig.exporter.attempted(1)
        rig.exporter._delivery.hurry(retries=False)
        rig.exporter.gate.set()
    assert (rig.ledger.stored, rig.ledger.dropped) == (9, {})
    assert len(rig.exporter.attempts) == 3
    async with stored(tmp_path) as again:
        await again.settled()


async def test_what_is_dropped_for_a_reason_is_deleted(tmp_path: Path) -> None:
    async with stored(tmp_path) as rig:
        rig.exporter.failures = [RejectedError("bad")]
        await rig.send(3)
        await rig.settled()
        assert rig.ledger.dropped == {"permanent_error": 3}
    async with stored(tmp_path) as again:
        assert again.ledger.recovered == 0


async def test_a_full_disk_refuses_and_deletes_go_on(tmp_path: Path) -> None:
    async with stored(tmp_path, gate=False, num_consumers=1) as rig:
        await rig.send(3)
        with full_disk():
            error = await failure(rig.send(200))
            assert isinstance(error, RefusedError)
            assert error.retry_after == MAX_RETRY_AFTER
            assert "the store of scripted cannot take it: File too large" in str(error)
            assert rig.value("k8strace_store_failed_records_total") == 1
            assert (rig.ledger.refused, rig.ledger.parked) == (200, 3)
            rig.exporter.gate.set()
            await rig.settled()
            assert rig.value("k8strace_store_records") == 0
        await rig.send(3)
        await rig.settled()
        assert rig.ledger.sent == 6
    assert [one.name for one in files(tmp_path)] == ["k8strace.lock"]


@pytest.mark.parametrize(("sizer", "size"), [("requests", 2), ("items", 6), ("bytes", 0)])
async def test_the_size_of_the_queue_bounds_what_is_stored(
    tmp_path: Path, sizer: str, size: int
) -> None:
    options: dict[str, Any] = {
        "sizer": sizer,
        "queue_size": size or 2 * payload(3).size + 100,
    }
    async with stored(tmp_path, gate=False, **options) as rig:
        await rig.send(3)
        await rig.send(3)
        assert isinstance(await failure(rig.send(3)), RefusedError)
    async with stored(tmp_path, gate=False, **options) as again:
        assert isinstance(await failure(again.send(3)), RefusedError)
        again.exporter.gate.set()
        await again.settled()
        await again.send(3)
        await again.settled()
        assert again.value("otelcol_exporter_queue_size", **TRACES) == 0


@pytest.mark.parametrize("sizer", ["requests", "items", "bytes"])
async def test_damaged_records_are_counted(tmp_path: Path, sizer: str) -> None:
    options: dict[str, Any] = {"sizer": sizer, "queue_size": 100_000}
    async with stored(tmp_path, gate=False, **options) as rig:
        for _ in range(4):
            await rig.send(3)
    (path,) = [one for one in files(tmp_path) if one.suffix == ".segment"]
    places = list(records_in(path))
    flip(path, places[1][0] + 100)
    flip(path, places[2][0] + 20)
    async with stored(tmp_path, **options) as again:
        await again.settled()
        assert again.ledger.recovered == 9
        assert (again.ledger.sent, again.ledger.dropped) == (6, {"corrupt": 3})
        assert again.value("k8strace_store_corrupt_records_total") == 2
        assert again.value("otelcol_exporter_queue_size", **TRACES) == 0
    names = [one.suffix for one in files(tmp_path)]
    assert sorted(names) == [".damaged", ".damaged", ".lock"]


async def test_a_segment_that_is_none_any_more_is_counted(tmp_path: Path) -> None:
    async with stored(tmp_path, gate=False) as rig:
        await rig.send(3)
    (path,) = [one for one in files(tmp_path) if one.suffix == ".segment"]
    for head in (0, 2048):
        flip(path, head)
    async with stored(tmp_path) as again:
        assert again.value("k8strace_store_corrupt_records_total") == 1
        assert again.ledger.recovered == 0


async def test_a_sender_that_leaves_while_it_is_stored(tmp_path: Path) -> None:
    async with stored(tmp_path) as rig:
        sender = rig.sender(3)
        await until(lambda: rig.ledger.received == 3)
        await cancel(sender)
        del sender
        await until(lambda: rig.ledger.sent == 3)
        assert (rig.ledger.refused, rig.ledger.received) == (3, 6)


async def test_what_another_process_drains_is_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_stored_queue, "LOOK_EVERY", 0.01)
    async with stored(tmp_path) as new:
        async with stored(tmp_path, gate=False) as old:
            await old.send(3)
            async with stored(tmp_path) as third:
                assert third.ledger.recovered == 0
                await old.stop(0.01)
                await until(lambda: third.ledger.recovered == 3)
                await third.settled()
        assert new.ledger.recovered == 0


async def stored_by_hand(base: Path, *metas: bytes) -> None:
    """A record of three spans for each metadata, as an earlier process left them."""
    base.mkdir()  # noqa: ASYNC240 -- nothing else runs
    one = plain_store(base / "scripted")
    await one.open()
    for meta in metas:
        await put(one, *payload(3).chunks, meta=meta, spans=3)
    await one.close()


def facts(**changes: Any) -> bytes:
    given = payload(3)
    values = {"origin": given.origin, "sources": (), **changes}
    return encode_facts(Facts(**values))


@pytest.mark.parametrize(
    "meta",
    [
        b"",
        b"\xc1",
        b"\x09" + facts()[1:],
        facts()[:-1],
        facts() + b"\x00",
        b"\x01\x92\xc0\x91\x01",
        b"\x01" + b"\x91" * 100_000,
        facts().replace(b"10.0.0.1:1", b"10.0.\xff.1:1"),
        facts(sources=(Source(1, 1, None),)),
        facts(sources=(Source(4, payload(3).size, None), Source(-1, 0, None))),
    ],
    ids=[
        *("none", "rubbish", "newer", "cut", "longer", "types", "deep", "text"),
        *("sources", "negative"),
    ],
)
async def test_a_record_whose_metadata_cannot_be_read_costs_itself(
    tmp_path: Path, meta: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    base = tmp_path / "store"
    await stored_by_hand(base, facts(), meta, facts())
    async with stored(base) as rig:
        assert rig.ledger.recovered == 9
        await rig.settled()
        assert (rig.ledger.sent, rig.ledger.dropped) == (6, {"corrupt": 3})
        assert rig.value("k8strace_store_corrupt_records_total") == 1
        assert rig.value("otelcol_exporter_queue_size", **TRACES) == 0
    assert caplog.text.count("cannot be used") == 2
    (aside,) = [one for one in files(base) if one.suffix == ".damaged"]
    assert b"service.name" in aside.read_bytes()
    assert aside.stat().st_mode & 0o777 == 0o600
    async with stored(base) as again:
        assert again.ledger.recovered == 0
        await again.send(3)
        await again.settled()


async def test_a_record_that_cannot_be_set_aside_stays(tmp_path: Path) -> None:
    base = tmp_path / "store"
    await stored_by_hand(base, b"\xc1", facts())
    (path,) = files(base)
    (offset, _), _ = records_in(path)
    aside = path.with_suffix(f".{offset}.damaged")
    aside.mkdir()
    async with stored(base) as rig:
        await until(lambda: rig.ledger.sent == 3)
        assert (rig.ledger.parked, rig.ledger.dropped) == (3, {})
    aside.rmdir()
    async with stored(base) as again:
        await again.settled()
        assert again.ledger.dropped == {"corrupt": 3}


async def test_a_store_of_an_earlier_version_is_delivered(tmp_path: Path) -> None:
    base = tmp_path / "store"
    shutil.copytree(OLD_STORE, base)
    sent: list[Payload] = []

    async def look(given: Payload) -> None:
        sent.append(given)

    async with stored(base, gate=False, num_consumers=1) as rig:
        rig.exporter.answer = look
        assert rig.ledger.recovered == 6
        rig.exporter.gate.set()
        await rig.settled()
        origin = Origin(
            "10.0.0.1:1",
            "system:serviceaccount:kube:api",
            (("x-tenant", "bl\xe5"),),
            ("system:masters",),
        )
        assert sent[0].origin == origin
        peers = [one.origin.peer for one in sent[1].sources if one.origin]
        assert peers == ["10.0.0.2:2", "10.0.0.3:3"]
        assert [one.spans for one in sent[1].sources] == [3, 1]
        sent.clear()
    assert [one.name for one in files(base)] == ["k8strace.lock"]


async def test_text_that_is_not_unicode_costs_nobody_anything(tmp_path: Path) -> None:
    bad = Origin("10.0.0.1:1", "a\udcff", (("x-\udc80", "\udcffv"),), ("\ud800",))
    sizes = [payload(3).size] * 2
    meta = encode_facts(Facts(None, (Source(3, sizes[0], bad), Source(3, sizes[1], None))))
    found = decode_facts(meta, 6, sum(sizes)).sources[0].origin
    assert found == Origin(
        "10.0.0.1:1", "a\\udcff", (("x-\\udc80", "\\udcffv"),), ("\\ud800",)
    )
    async with stored(tmp_path, gate=False) as rig:
        hostile = structs.replace(rig.payload(3), origin=bad)
        await rig.edge(Payload.join([rig.payload(2), hostile, rig.payload(1)]))
        del hostile
    async with stored(tmp_path) as again:
        await again.settled()
        assert again.ledger.sent == 6


async def test_a_directory_that_is_not_there_refuses_until_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_stored_queue, "LOOK_EVERY", 0.01)
    base, elsewhere = tmp_path / "store", tmp_path / "elsewhere"
    base.mkdir()
    async with stored(base, gate=False) as rig:
        await rig.send(3)
        base.rename(elsewhere)
        await until(lambda: "was removed, renamed or replaced" in caplog.text)
        for _ in range(2):
            error = await failure(rig.send(3))
            assert isinstance(error, RefusedError)
            assert error.retry_after == MAX_RETRY_AFTER
        assert rig.value("k8strace_store_failed_records_total") == 2
        elsewhere.rename(base)
        await until(lambda: "is there again" in caplog.text)
        await rig.send(3)
        rig.exporter.gate.set()
        await rig.settled()
        assert rig.ledger.sent == 6
        assert rig.value("k8strace_store_records") == 0
    assert [one.name for one in files(base)] == ["k8strace.lock"]


async def test_what_was_stored_in_files_that_are_gone_is_lost_at_the_end(
    tmp_path: Path,
) -> None:
    base = tmp_path / "store"
    base.mkdir()
    async with stored(base, gate=False, num_consumers=1) as rig:
        await rig.send(3)
        await rig.send(4)
        shutil.rmtree(base / "scripted")
        assert isinstance(await failure(rig.send(1)), RefusedError)
        await rig.send(5)
    assert (rig.ledger.stored, rig.ledger.dropped) == (5, {"shutdown": 7})
    async with stored(base) as again:
        await again.settled()
        assert again.ledger.sent == 5
