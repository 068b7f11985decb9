"""The C heap gives back what is free, on a thread of C, and keeps what it is told to."""

from __future__ import annotations

import subprocess
import sys

import pytest

from k8strace import threads
from k8strace._heap import IS_GLIBC, Trim
from k8strace.memory import resident_memory
from tests.support.sanitizers import unsanitized

pytestmark = [
    pytest.mark.skipif(not IS_GLIBC, reason="not glibc"),
    unsanitized("their malloc has nothing to trim"),
]


async def test_a_thread_gives_back_what_is_free() -> None:
    blocks = [bytes([number % 256]) * 60_000 for number in range(1000)]
    last = blocks[-1]  # keeps the C heap from shrinking by itself
    blocks.clear()
    before = resident_memory()
    await threads.run(Trim())
    assert before - resident_memory() > 30_000_000
    assert len(last) == 60_000


def test_blocks_over_half_of_what_is_kept_are_the_systems() -> None:
    code = """
from k8strace._heap import keep
from k8strace.memory import resident_memory
print(keep(8 << 20))
block = b"x" * (32 << 20)
before = resident_memory()
del block
print(before - resident_memory())
"""
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    kept, freed = out.stdout.split()
    assert kept == "True"
    assert int(freed) > 30 << 20
