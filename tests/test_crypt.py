"""Hashes of passwords by libxcrypt."""

from __future__ import annotations

import asyncio
import hashlib
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k8strace import threads
from k8strace._crypt import LONGEST, Hash

KNOWN = {
    # bcrypt's own vector, and what openssl makes.
    b"$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW": b"U*U",
    b"$6$saltstring$svn8UoSVapNtMuq1ukKS4tPQd8iKwSMHWjl/O817G3uBnIFNjnQJuesI"
    b"68u4OTLiBFdcbYEdFCoEOfaS35inz1": b"Hello world!",
    b"$5$saltstring$5B8vYYiY.CVt1RlTTf8KbXBH3hsxY/GNooZaBBGWEc5": b"Hello world!",
}


def apr1(password: bytes, salt: bytes) -> bytes:
    """Apache's hash of a password, written down once more in Python."""

    def md5(data: bytes) -> bytes:
        return hashlib.md5(data, usedforsecurity=False).digest()

    length = len(password)
    data = password + b"$apr1$" + salt
    data += (md5(password + salt + password) * (length // 16 + 1))[:length]
    for bit in f"{length:b}"[::-1] if length else "":
        data += b"\0" if bit == "1" else password[:1]
    digest = md5(data)
    for turn in range(1000):
        first, last = (password, digest) if turn % 2 else (digest, password)
        digest = md5(
            first + (salt if turn % 3 else b"") + (password if turn % 7 else b"") + last
        )
    order = [(0, 6, 12), (1, 7, 13), (2, 8, 14), (3, 9, 15), (4, 10, 5)]
    numbers = [(digest[a] << 16 | digest[b] << 8 | digest[c], 4) for a, b, c in order]
    numbers.append((digest[11], 2))
    letters = "./" + string.digits + string.ascii_uppercase + string.ascii_lowercase
    text = "".join(
        letters[number >> (6 * place) & 63]
        for number, count in numbers
        for place in range(count)
    )
    return b"$apr1$" + salt + b"$" + text.encode()


SALTS = st.text(string.ascii_letters + string.digits + "./", max_size=8).map(str.encode)


@given(st.binary(max_size=LONGEST).map(lambda one: one.replace(b"\0", b"x")), SALTS)
@settings(max_examples=50, deadline=None)
def test_apaches_hash(password: bytes, salt: bytes) -> None:
    expected = apr1(password, salt)
    made = Hash(password, expected)
    made.run()
    assert made.value == expected


@pytest.mark.parametrize("length", [0, 1, 15, 16, 17, 55, 56, 63, 64, 65, 128, LONGEST])
def test_apaches_hash_at_the_borders_of_blocks(length: int) -> None:
    password = bytes(1 + number % 255 for number in range(length))
    made = Hash(password, b"$apr1$saltsalt$")
    made.run()
    assert made.value == apr1(password, b"saltsalt")


def test_a_password_that_is_too_long_for_apaches_hash() -> None:
    made = Hash(b"x" * (LONGEST + 1), b"$apr1$saltsalt$")
    made.run()
    assert made.value is None


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
