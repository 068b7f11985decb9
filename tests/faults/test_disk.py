"""A disk on which calls fail: what was stored before, and after, is there."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.sanitizers import unsanitized
from tests.support.stores import files, read_all, store

SHIM = Path(__file__).parent / "disk.c"

WRITE = """
import asyncio, pathlib, sys
from tests.support.stores import put, store

async def main(base, fault, call):
    one = store(pathlib.Path(base))
    await one.open()
    for number in range(3):
        await put(one, b"before %d" % number, bytes(3000))
    pathlib.Path(fault).write_text(call)
    for size in (100, 9000, 100):
        try:
            await put(one, b"during", bytes(size))
            print("stored")
        except OSError as error:
            print(error.errno)
    pathlib.Path(fault).write_text("")
    await put(one, b"after", bytes(100))
    await one.close()

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library of disk.c, compiled."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    library = tmp_path_factory.mktemp("disk") / "disk.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-Wall", "-Werror"]
    subprocess.run([*command, "-o", str(library), str(SHIM), "-ldl"], check=True)
    return library


CASES = [
    (call, number)
    for call in ("fdatasync", "pwritev")
    for number in (errno.EIO, errno.ENOSPC, errno.EROFS)
]
CASES += [
    ("fsync", errno.EIO),
    ("renameat", errno.EIO),
    ("posix_fallocate", errno.ENOSPC),
    ("ftruncate", errno.EIO),
    ("short", errno.EINTR),
]


@unsanitized("its library must be the first that is loaded")
@pytest.mark.parametrize(("call", "number"), CASES)
async def test_a_call_that_fails(
    shim: Path, tmp_path: Path, call: str, number: int
) -> None:
    fault, base = tmp_path / "fault", tmp_path / "store"
    fault.write_text("")
    env = {**os.environ, "LD_PRELOAD": str(shim), "DISK_FILE": str(fault)}
    command = [sys.executable, "-c", WRITE, str(base), str(fault), f"{call} {number}"]
    done = await asyncio.to_thread(
        subprocess.run, command, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    told = done.stdout.split()
    assert set(told) <= {"stored", str(number)}
    if call in ("fdatasync", "pwritev"):
        assert told == [str(number)] * 3
    elif call in ("short", "ftruncate"):
        assert told == ["stored"] * 3
    else:  # only a new segment needs it
        assert str(number) in told
    assert not [one for one in files(base) if one.name.endswith(".new")]
    again = store(base)
    await again.open()
    found = [record.body[:6] for record in await read_all(again)]
    # Twice, rather than never: what was refused may have reached the disk all the same.
    assert [one for one in found if one != b"during"] == [b"before"] * 3 + [b"after\0"]
    assert found.count(b"during") >= told.count("stored")
    assert again.damaged == 0
    await again.close()
