"""Threads of C: jobs come back to their loop, whatever becomes of loops and processes."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import weakref
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import uvloop

from k8strace import _threads, threads
from k8strace._codec import GZIP, ZSTD, Deflation

MIB = 1024 * 1024
LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]


def job(size: int = 2 * MIB) -> Deflation:
    return Deflation(GZIP, (bytes(size),))


class Held:
    """Something that a job holds."""


@pytest.fixture(autouse=True)
def no_threads() -> Any:
    threads.close()
    yield
    threads.close()


async def test_threads_are_started_when_there_is_work_for_them() -> None:
    assert _threads.started() == 0
    await threads.run(one := job())
    assert (one.is_done, _threads.started()) == (True, 1)
    await threads.run(job())
    assert _threads.started() == 1
    jobs = [job(32 * MIB) for _ in range(10)]  # the next comes before one can be done
    await asyncio.gather(*(threads.run(one) for one in jobs))
    assert all(one.is_done for one in jobs)
    assert _threads.started() == _threads.THREADS


async def test_closing_waits_for_what_was_submitted() -> None:
    jobs = [job(8 * MIB) for _ in range(threads.AT_A_TIME)]
    tasks = [asyncio.ensure_future(threads.run(one)) for one in jobs]
    await asyncio.sleep(0)
    threads.close()
    assert _threads.started() == 0
    assert all(one.is_done for one in jobs)
    await asyncio.gather(*tasks)
    threads.close()
    await threads.run(one := job())
    assert one.is_done


async def test_what_a_job_holds_stays_until_it_has_ended() -> None:
    held = Held()
    await threads.run(job(0))
    port = threads._ways[asyncio.get_running_loop(), _threads.COMPUTING].port
    running: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    weakref.finalize(held, lambda: running.set_result(port.running))
    task = asyncio.ensure_future(threads.run(job(16 * MIB), held))
    await asyncio.sleep(0)
    assert port.running == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    del task, held
    async with asyncio.timeout(20):
        assert await running == 0


@pytest.mark.parametrize("make", LOOPS)
def test_loops_come_and_go(make: Any) -> None:
    for _ in range(3):
        with asyncio.Runner(loop_factory=make) as runner:
            runner.run(threads.run(one := job()))
        assert one.is_done


def test_a_loop_that_is_closed_over_its_jobs() -> None:
    held = Held()
    gone = weakref.ref(held)
    loop = asyncio.new_event_loop()
    task = loop.create_task(threads.run(job(16 * MIB), held))
    loop.run_until_complete(asyncio.sleep(0))
    task.cancel()
    with suppress(asyncio.CancelledError):  # or its job was done before
        loop.run_until_complete(task)
    loop.close()
    del task, held
    threads.close()
    asyncio.run(threads.run(job()))  # another loop finds what the first one left
    gc.collect()
    assert gone() is None


def test_loops_in_several_threads() -> None:
    found = []

    def work() -> None:
        async def main() -> None:
            for _ in range(10):
                await threads.run(one := job())
                found.append(one.is_done)

        asyncio.run(main())

    workers = [threading.Thread(target=work) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert found == [True] * 30


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_starts_its_own() -> None:
    """Forked while its parent's threads work."""
    loop = asyncio.new_event_loop()
    tasks = [loop.create_task(threads.run(job(16 * MIB))) for _ in range(4)]
    loop.run_until_complete(asyncio.sleep(0))
    child = os.fork()
    if not child:
        code = 1
        try:
            asyncio.run(threads.run(one := Deflation(ZSTD, (bytes(2 * MIB),))))
            threads.close()
            code = 0 if one.is_done else 2
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    loop.run_until_complete(asyncio.gather(*tasks))
    loop.close()


def test_threads_take_no_signals() -> None:
    asyncio.run(threads.run(job()))
    names = {entry.name for entry in Path("/proc/self/task").iterdir()}
    masks = {}
    for name in names - {str(os.getpid())}:
        with suppress(FileNotFoundError, ProcessLookupError):  # others' may have ended
            status = Path(f"/proc/self/task/{name}/status").read_text()
            masks[name] = next(line for line in status.splitlines() if line[:6] == "SigBlk")
    blocked = [int(mask.split()[1], 16) for mask in masks.values()]
    assert any(mask >> 14 & 1 and mask >> 1 & 1 for mask in blocked)  # SIGTERM and SIGINT


def test_a_port_without_work() -> None:
    port = _threads.Port()
    assert os.stat(port.fileno())
    assert (port.finished(), port.running) == ([], 0)
    number = port.fileno()
    del port
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(number)
