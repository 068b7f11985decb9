"""htpasswd files: which hashes are known, which lines are wrong, which passwords right."""

from __future__ import annotations

import base64
import hashlib
import subprocess

import pytest

from k8strace import threads
from k8strace._crypt import LONGEST
from k8strace.extensions._htpasswd import is_slow, matches, matches_slowly, parse

BCRYPT = b"$2y$04$abcdefghijklmnopqrstuuyvPXIbu7xe6/CED2DzX8z6Si09MlzlW"  # of pw
PASSWORDS = [b"pw", b"p", b"a longer password than sixteen bytes", "pässwörd".encode()]


def openssl(method: str, password: bytes) -> bytes:
    """What another program makes of it."""
    done = subprocess.run(
        ["openssl", "passwd", f"-{method}", "-salt", "saltsalt", "-stdin"],
        input=password + b"\n",
        capture_output=True,
        check=True,
    )
    return done.stdout.strip()


@pytest.mark.parametrize("password", PASSWORDS)
@pytest.mark.parametrize("method", ["1", "5", "6", "apr1"])
async def test_slow_hashes(method: str, password: bytes) -> None:
    hashed = openssl(method, password)
    assert parse(b"ann:" + hashed) == {b"ann": hashed}
    assert is_slow(hashed)
    assert await matches_slowly(password, hashed)
    for wrong in (b"", password + b"x", password[:-1], password + b"\0"):
        assert not await matches_slowly(wrong, hashed)


async def test_passwords_that_are_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """They cost nothing: no thread is asked for one."""
    hashed = openssl("apr1", b"x" * 255)
    assert await matches_slowly(b"x" * 255, hashed)
    assert not await matches_slowly(b"x" * LONGEST, hashed)
    monkeypatch.setattr(threads, "run", None)
    assert not await matches_slowly(b"x" * (LONGEST + 1), hashed)


@pytest.mark.parametrize(
    ("hashed", "text"),
    [
        (BCRYPT.replace(b"04", b"16"), "bcrypt of cost 16, of which at most 15"),
        (BCRYPT.replace(b"04", b"31"), "bcrypt of cost 31"),
        (b"$5$rounds=5000001$salt$" + b"a" * 43, "5000001 rounds"),
        (b"$6$rounds=999999999$salt$" + b"a" * 86, "999999999 rounds"),
        (b"$y$jCT$salt$" + b"a" * 43, "yescrypt of more than 64 MiB"),
        (b"$gy$jFz$salt$" + b"a" * 43, "yescrypt of more than 64 MiB"),
        (b"$y$j9T5$salt$" + b"a" * 43, "other parameters"),
    ],
)
def test_hashes_that_would_hold_a_thread(hashed: bytes, text: str) -> None:
    assert is_slow(hashed)
    with pytest.raises(ValueError, match=f"line 2 .*{text}"):
        parse(b"ann:ok\nbob:" + hashed)


@pytest.mark.parametrize(
    "hashed",
    [
        BCRYPT.replace(b"04", b"15"),
        b"$6$rounds=5000000$salt$" + b"a" * 86,
        b"$6$salt$" + b"a" * 86,
        b"$y$j9T$salt$" + b"a" * 43,
        b"$y$jBT$salt$" + b"a" * 43,
    ],
)
def test_hashes_that_take_long_enough(hashed: bytes) -> None:
    assert parse(b"bob:" + hashed) == {b"bob": hashed}


async def test_bcrypt() -> None:
    assert await matches_slowly(b"pw", BCRYPT)
    assert not await matches_slowly(b"pW", BCRYPT)
    for kind in (b"$2a$", b"$2b$"):
        assert await matches_slowly(b"pw", kind + BCRYPT[4:])


@pytest.mark.parametrize(
    "hashed",
    [
        b"{SHA}" + base64.b64encode(hashlib.sha1(b"pw").digest()),
        b"{SSHA}" + base64.b64encode(hashlib.sha1(b"pwsalt").digest() + b"salt"),
        b"pw",
    ],
)
def test_quick_ones(hashed: bytes) -> None:
    assert parse(b"ann:" + hashed) == {b"ann": hashed}
    assert not is_slow(hashed)
    assert matches(b"pw", hashed)
    assert not any(matches(wrong, hashed) for wrong in (b"", b"pW", hashed + b"x"))


def test_a_file() -> None:
    text = b"# people\n\nann:one\r\n  bob:two:and more\nann:three\n"
    assert parse(text) == {b"ann": b"three", b"bob": b"two:and more"}
    assert parse(b"") == {}


@pytest.mark.parametrize(
    "line",
    [
        b"hunter2",
        b":hunter2",
        b"hunter2:",
        b"hunter2:$2y$04$short",
        b"hunter2:$unknown$of$it",
        b"hunter2:{SHA}no base64",
        b"hunter2:{SHA}aGVsbG8=",
        b"hunter2:{SSHA}HuhCyGIAJrL+zUp5dPKQqqAYENE=",
        b"hunter2:$apr1$saltsalt$short",
    ],
)
def test_malformed_lines_are_named_and_not_shown(line: bytes) -> None:
    with pytest.raises(ValueError, match="line 3 ") as caught:
        parse(b"ann:ok\n\n" + line)
    assert "hunter2" not in str(caught.value)
