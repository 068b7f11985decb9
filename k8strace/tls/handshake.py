"""A handshake in memory, which tells whose a certificate is and who will refuse it."""

from __future__ import annotations

import ssl
import time
from typing import NamedTuple

from k8strace.tls.peers import name_in

_NO_CHECK_TIME = 0x200000  # X509_V_FLAG_NO_CHECK_TIME, which ssl has no name for
_STEPS = 10  # more than a handshake has


class Certificate(NamedTuple):
    """Whose a certificate is, until when, and why its peers will refuse it."""

    subject: str = ""
    until: str = ""
    problems: tuple[str, ...] = ()


def inspect(
    server: ssl.SSLContext, client: ssl.SSLContext, leaf: str, *, of_server: bool
) -> Certificate:
    """What one of two contexts sees of the other's certificate `leaf` (PEM).

    The one that sees trusts it, and nothing else: it is changed to do so.
    """
    judge = client if of_server else server
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    judge.load_verify_locations(cadata=leaf)
    judge.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VerifyFlags(_NO_CHECK_TIME)
    judge.verify_mode = ssl.CERT_REQUIRED
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname="localhost"),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    try:
        for _ in range(_STEPS):
            for end in tuple(ends):
                try:
                    end.do_handshake()
                except ssl.SSLWantReadError:
                    continue
                if end.context is judge:
                    return _read(end)
                ends.remove(end)
    except ssl.SSLCertVerificationError as error:
        return Certificate(problems=(f"will be refused: {error.verify_message}",))
    except ssl.SSLError as error:
        why = (error.reason or str(error)).lower().replace("_", " ")
        return Certificate(problems=(f"cannot be shown to anybody: {why}",))
    raise AssertionError("the handshake has no end")


def _read(end: ssl.SSLObject) -> Certificate:
    found = end.getpeercert()
    assert found
    problems = []
    now = time.time()
    begin, until = str(found["notBefore"]), str(found["notAfter"])
    if now < ssl.cert_time_to_seconds(begin):
        problems.append(f"is not valid before {begin}: it will be refused until then")
    if now > ssl.cert_time_to_seconds(until):
        problems.append(f"expired on {until}: it will be refused")
    return Certificate(name_in(found) or "nobody", until, tuple(problems))
