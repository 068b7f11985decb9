"""What a worker is handed, and what it says."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import socket
from collections.abc import Iterator
from contextlib import suppress

import pytest

from k8strace import worker
from k8strace.config import load
from k8strace.drops import MAX_NAME, MAX_TEXT
from k8strace.losses import Loss, Sample
from k8strace.worker import (
    DRAIN,
    END,
    FAILED,
    LOST,
    READY,
    Control,
    Handover,
    Lost,
    _Signals,
    map_block,
)
from k8strace.worker import MAX_TEXT as LONGEST_MESSAGE
from k8strace.worker_process import SharedBlock


def handover(**changes: object) -> Handover:
    config = load([]).config
    fields: dict[str, object] = {
        "slot": 3,
        "is_first": True,
        "config": config,
        "shutdown_timeout": 1.5,
        "sockets": {"otlp": {"grpc": (7, 8)}},
        "block": 5,
        "control": 6,
    }
    return Handover(**(fields | changes))  # type: ignore[arg-type]


def test_a_handover_is_the_same_on_the_other_side() -> None:
    given = handover()
    assert Handover.read(given.write()) == given


def test_a_handover_is_nothing_else() -> None:
    descriptor = os.memfd_create("other")
    os.write(descriptor, pickle.dumps({}))
    with pytest.raises(AssertionError):
        Handover.read(descriptor)


def test_what_is_lost_is_the_same_on_the_other_side() -> None:
    name = "\u2028" * MAX_NAME
    sample = Sample(1.5, name, name, "\u2028" * MAX_TEXT)
    lost = Lost(Loss("exporters", "otlp", "dropped", "queue_full"), sample)
    message = lost.write()
    assert message.startswith(LOST)
    assert len(message) < LONGEST_MESSAGE
    assert Lost.read(message) == lost


def test_what_is_lost_is_told_whatever_its_text_is() -> None:
    loss = Loss("exporters", "otlp", "dropped", "queue_full")
    message = Lost(loss, Sample(1.5, "\udcff:1", "a\ud800", "text")).write()
    assert Lost.read(message).sample == Sample(1.5, "\\udcff:1", "a\\ud800", "text")


def test_counters_are_shared() -> None:
    shared = SharedBlock.make()
    map_block(shared.descriptor).counter("a").add(2)
    assert shared.block.counter("a").value == 2
    os.close(shared.descriptor)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
    yield ours, theirs
    ours.close()
    with suppress(OSError):  # `Control` takes it over
        theirs.close()


async def test_what_a_supervisor_says(pair: tuple[socket.socket, socket.socket]) -> None:
    signals = _Signals()
    control = Control(pair[1].detach(), signals)
    control.say(b"hello")
    assert pair[0].recv(100) == b"hello"
    pair[0].send(DRAIN)
    await signals.stop_asked.wait()
    assert not signals.end_asked.is_set()
    pair[0].send(END)
    await signals.end_asked.wait()
    control.close()
    control.close()


async def test_what_does_not_fit_waits_for_its_supervisor(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "MAX_WAITING", 10)
    control = Control(pair[1].detach(), _Signals())
    sample = LOST + bytes(10_000)
    for _ in range(200):
        control.say(sample)
    control.say(READY)
    control.say(FAILED + b"\nwhy")
    heard: list[bytes] = []
    pair[0].setblocking(False)
    while not heard or heard[-1] != FAILED + b"\nwhy":
        try:
            heard.append(pair[0].recv(LONGEST_MESSAGE))
        except BlockingIOError:
            await asyncio.sleep(0)
    assert heard[-2] == READY
    assert set(heard[:-2]) == {sample}
    assert len(heard) < 200
    control.say(b"as before")
    assert pair[0].recv(100) == b"as before"
    control.close()


async def test_last_words_are_heard(pair: tuple[socket.socket, socket.socket]) -> None:
    control = Control(pair[1].detach(), _Signals())
    for _ in range(200):
        control.say(LOST + bytes(10_000))
    control.say(FAILED + b"\nwhy")
    heard: list[bytes] = []

    def hear() -> None:
        while message := pair[0].recv(LONGEST_MESSAGE):
            heard.append(message)

    listening = asyncio.create_task(asyncio.to_thread(hear))
    await asyncio.sleep(0)
    control.close()
    await listening
    assert heard[-1] == FAILED + b"\nwhy"


async def test_a_supervisor_that_is_gone(
    pair: tuple[socket.socket, socket.socket], caplog: pytest.LogCaptureFixture
) -> None:
    signals = _Signals()
    control = Control(pair[1].detach(), signals)
    pair[0].close()
    await signals.stop_asked.wait()
    assert not signals.end_asked.is_set()
    assert "the supervisor is gone" in caplog.text
    control.say(b"nobody hears it")
    control.close()


async def test_signals_only_drain() -> None:
    signals = _Signals()
    signals.note(signal.SIGHUP)
    await asyncio.sleep(0)
    assert not signals.asked.is_set()
    for _ in range(3):
        signals.note(signal.SIGTERM)
    assert signals.stop_asked.is_set()
    assert not signals.end_asked.is_set()
