"""htpasswd: users and the hashes of their passwords, and whether a password is the one.

Hashes that take long by design are made on a thread of C; the others here. How long they
take is bounded when they are read: a thread that makes one cannot be broken off.
"""

from __future__ import annotations

import hashlib
import re
from base64 import b64decode
from binascii import Error as Base64Error
from hmac import compare_digest

from k8strace import threads
from k8strace._crypt import LONGEST, Hash
from k8strace.units import MIB

_B64 = rb"[./0-9A-Za-z]"
_SLOW = re.compile(
    rb"\$2[aby]\$\d\d\$" + _B64 + rb"{53}"
    rb"|\$(?:1|apr1)\$[^$]{0,8}\$" + _B64 + rb"{22}"
    rb"|\$5\$(?:rounds=\d+\$)?[^$]{0,16}\$" + _B64 + rb"{43}"
    rb"|\$6\$(?:rounds=\d+\$)?[^$]{0,16}\$" + _B64 + rb"{86}"
    rb"|\$g?y\$[^$]+\$[^$]*\$" + _B64 + rb"{43}"
)
_LETTERS = b"./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_BCRYPT = re.compile(rb"\$2[aby]\$(\d\d)\$")
_ROUNDS = re.compile(rb"\$[56]\$rounds=(\d+)\$")
_YESCRYPT = re.compile(rb"\$g?y\$j([^$])([^$])\$")
# Each of these takes some seconds, on a machine that is neither new nor old.
MAX_BCRYPT = 15  # cost: 2 to the power of it is the number of rounds
MAX_ROUNDS = 5_000_000  # of sha256crypt and sha512crypt
MAX_YESCRYPT = 64 * 1024 * 1024  # bytes of memory
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
        if (why := _too_costly(hashed)) is not None:
            raise ValueError(f"line {number} has a hash that takes too long: {why}")
        users[user] = hashed
    return users


def is_slow(hashed: bytes) -> bool:
    """Whether comparing takes long, and so `matches_slowly`."""
    return _SLOW.fullmatch(hashed) is not None


async def matches_slowly(password: bytes, hashed: bytes) -> bool:
    """Whether the password is the one that a slow hash was made of.

    One that is longer than `LONGEST` bytes never is.
    """
    if 0 in password or len(password) > LONGEST:
        return False
    made = Hash(password, hashed)
    await threads.run(made)
    return made.value is not None and compare_digest(made.value, hashed)


def matches(password: bytes, hashed: bytes) -> bool:
    """Whether the password is the one that any other hash was made of."""
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
        return is_slow(hashed)
    return True


def _too_costly(hashed: bytes) -> str | None:
    """Why a hash would hold a thread for too long, or take too much memory."""
    if (found := _BCRYPT.match(hashed)) is not None and int(found[1]) > MAX_BCRYPT:
        return f"bcrypt of cost {int(found[1])}, of which at most {MAX_BCRYPT} is taken"
    if (found := _ROUNDS.match(hashed)) is not None and int(found[1]) > MAX_ROUNDS:
        return f"{int(found[1])} rounds, of which at most {MAX_ROUNDS} are taken"
    if hashed.startswith((b"$y$", b"$gy$")):
        found = _YESCRYPT.match(hashed)
        if found is None:
            return "yescrypt with other parameters than those of memory"
        # As libxcrypt writes them: the logarithm of N less 1, and r less 1.
        power, rounds = (_LETTERS.find(letter) + 1 for letter in found.groups())
        if 128 * rounds << power > MAX_YESCRYPT:
            return f"yescrypt of more than {MAX_YESCRYPT // MIB} MiB of memory"
    return None


def _sha(hashed: bytes) -> tuple[bytes, bytes]:
    """Digest and salt. Raises ValueError for what is no base64."""
    try:
        both = b64decode(hashed.partition(b"}")[2], validate=True)
    except Base64Error as error:
        raise ValueError("no base64") from error
    return both[:_SHA_SIZE], both[_SHA_SIZE:]


def _sha1(data: bytes) -> bytes:
    return hashlib.sha1(data, usedforsecurity=False).digest()
