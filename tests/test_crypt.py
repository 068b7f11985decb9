"""Hashes of passwords by libxcrypt."""

from __future__ import annotations

import asyncio

import pytest

from k8strace import threads
from k8strace._crypt import Hash

KNOWN = {
    # bcrypt's own vector, and what openssl makes.
    b"$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW": b"U*U",
    b"$6$saltstring$svn8UoSVapNtMuq1ukKS4tPQd8iKwSMHWjl/O817G3uBnIFNjnQJuesI"
    b"68u4OTLiBFdcbYEdFCoEOfaS35inz1": b"Hello world!",
    b"$5$saltstring$5B8vYYiY.CVt1RlTTf8KbXBH3hsxY/GNooZaBBGWEc5": b"Hello world!",
}


@pytest.mark.parametrize("hashed", KNOWN)
def test_known_hashes(hashed: bytes) -> None:
    made = Hash(KNOWN[hashed], hashed)
    before: object = made.value
    made.run()
    assert (before, made.value) == (None, hashed)
    other = Hash(KNOWN[hashed] + b"x", hashed)
    other.run()
    assert other.value != hashed


async def test_on_a_thread() -> None:
    made = [Hash(phrase, hashed) for hashed, phrase in KNOWN.items()]
    await asyncio.gather(*(threads.run(one) for one in made))
    assert [one.value for one in made] == list(KNOWN)
    threads.close()


@pytest.mark.parametrize(
    "setting", [b"", b"*0", b"$nothing$", b"$2b$", b"$2b$99$" + b"a" * 22]
)
def test_what_is_no_setting(setting: bytes) -> None:
    made = Hash(b"x", setting)
    made.run()
    assert made.value is None


def test_phrases_that_are_too_long_or_empty() -> None:
    hashed = next(iter(KNOWN))
    long, empty = Hash(b"x" * 600, hashed), Hash(b"", hashed)
    long.run()
    empty.run()
    assert long.value is None
    assert empty.value not in (None, hashed)


@pytest.mark.parametrize(("phrase", "setting"), [(b"U*U\0x", b"$2a$"), (b"x", b"a\0")])
def test_zero_bytes(phrase: bytes, setting: bytes) -> None:
    with pytest.raises(ValueError, match="zero byte"):
        Hash(phrase, setting)
