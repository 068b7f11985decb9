"""htpasswd: users and the hashes of their passwords, and whether a password is the one.

Hashes that take long by design are made by libxcrypt on a thread of C; the others here.
"""

from __future__ import annotations

import hashlib
import re
from base64 import b64decode
from binascii import Error as Base64Error
from hmac import compare_digest

from k8strace import threads
from k8strace._crypt import Hash

_B64 = rb"[./0-9A-Za-z]"
_SLOW = re.compile(
    rb"\$2[aby]\$\d\d\$" + _B64 + rb"{53}"
    rb"|\$1\$[^$]{0,8}\$" + _B64 + rb"{22}"
    rb"|\$5\$(?:rounds=\d+\$)?[^$]{0,16}\$" + _B64 + rb"{43}"
    rb"|\$6\$(?:rounds=\d+\$)?[^$]{0,16}\$" + _B64 + rb"{86}"
    rb"|\$g?y\$[^$]+\$[^$]*\$" + _B64 + rb"{43}"
)
_APR1 = re.compile(rb"\$apr1\$([^$]{0,8})\$" + _B64 + rb"{22}")
_SHA = (b"{SHA}", b"{SSHA}")
_SHA_SIZE = 20

Users = dict[bytes, bytes]
"""Users, and what stands behind the colon."""


def parse(content: bytes) -> Users:
    """The users of an htpasswd file. Raises ValueError that names the line alone."""
    users: Users = {}
    for number, raw in enumerate(content.split(b"\n"), 1):
        line = raw.strip()
        if not line or line.startswith(b"#"):
            continue
        user, colon, hashed = line.partition(b":")
        if not colon or not user or not hashed:
            raise ValueError(f"line {number} is not user:hash")
        if not _is_sane(hashed):
            raise ValueError(
                f"line {number} has a hash that is malformed or of an unknown kind: "
                "take bcrypt (htpasswd -B)"
            )
        users[user] = hashed
    return users


def is_slow(hashed: bytes) -> bool:
    """Whether comparing takes long, and so `matches_slowly`."""
    return _SLOW.fullmatch(hashed) is not None


async def matches_slowly(password: bytes, hashed: bytes) -> bool:
    """Whether the password is the one that a slow hash was made of."""
    if 0 in password:
        return False
    made = Hash(password, hashed)
    await threads.run(made)
    return made.value is not None and compare_digest(made.value, hashed)


def matches(password: bytes, hashed: bytes) -> bool:
    """Whether the password is the one that any other hash was made of."""
    if (apr1 := _APR1.fullmatch(hashed)) is not None:
        return compare_digest(_apr1(password, apr1[1]), hashed)
    if hashed.startswith(_SHA):
        digest, salt = _sha(hashed)
        return compare_digest(_sha1(password + salt), digest)
    return compare_digest(password, hashed)


def _is_sane(hashed: bytes) -> bool:
    if hashed.startswith(_SHA):
        try:
            digest, salt = _sha(hashed)
        except ValueError:
            return False
        is_salted = hashed.startswith(_SHA[1])
        return len(digest) == _SHA_SIZE and is_salted == bool(salt)
    if hashed.startswith(b"$"):
        return is_slow(hashed) or _APR1.fullmatch(hashed) is not None
    return True


def _sha(hashed: bytes) -> tuple[bytes, bytes]:
    """Digest and salt. Raises ValueError for what is no base64."""
    try:
        both = b64decode(hashed.partition(b"}")[2], validate=True)
    except Base64Error as error:
        raise ValueError("no base64") from error
    return both[:_SHA_SIZE], both[_SHA_SIZE:]


def _sha1(data: bytes) -> bytes:
    return hashlib.sha1(data, usedforsecurity=False).digest()


_ROUNDS = 1000
_ORDER = ((0, 6, 12), (1, 7, 13), (2, 8, 14), (3, 9, 15), (4, 10, 5))
_LETTERS = b"./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def _apr1(password: bytes, salt: bytes) -> bytes:
    """Apache's variant of md5crypt, which libxcrypt doesn't have."""
    start = b"$apr1$" + salt
    inner = _md5(password + salt + password)
    data = password + start + (inner * (len(password) // 16 + 1))[: len(password)]
    bits = len(password)
    while bits:
        data += b"\0" if bits & 1 else password[:1]
        bits >>= 1
    final = _md5(data)
    for turn in range(_ROUNDS):
        odd = turn & 1
        data = password if odd else final
        if turn % 3:
            data += salt
        if turn % 7:
            data += password
        final = _md5(data + (final if odd else password))
    text = b"".join(
        _letters(final[a] << 16 | final[b] << 8 | final[c], 4) for a, b, c in _ORDER
    )
    return start + b"$" + text + _letters(final[11], 2)


def _letters(number: int, count: int) -> bytes:
    return bytes(_LETTERS[number >> (6 * place) & 63] for place in range(count))


def _md5(data: bytes) -> bytes:
    return hashlib.md5(data, usedforsecurity=False).digest()
