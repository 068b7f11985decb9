"""Connections of HTTP/1 fed with any bytes, in pieces.

The first byte of an input is a set of choices, the second the size of the pieces (0: all
at once); what follows is what the client sends.
"""

from __future__ import annotations

import asyncio

from k8strace.net.site import READ_SIZE, STEP, Limits
from tests.support.http1 import Echo, Wire

CONNECTION = Limits().connection
WAITS, TIGHT, DEAF = 1, 2, 4
OUTPUT_FACTOR = 200  # bytes that are said for each that is got: an error's text
_LOOP = asyncio.new_event_loop()


def http_connection(data: bytes) -> None:
    if len(data) < 2:
        return
    choices, size = data[0], data[1] or len(data)
    room = 3 * STEP if choices & TIGHT else 1 << 30
    site = Echo(max_body=1 << 18, room=room, waits=bool(choices & WAITS))
    wire = Wire(site, _LOOP)
    wire.takes = not choices & DEAF
    try:
        for at in range(2, len(data), size):
            wire.exchange(data[at : at + size])
            assert site.upkeep <= CONNECTION + 2 * (Limits().max_head + READ_SIZE)
            assert site.bodies <= site.max_body
            if not wire.takes:
                wire.take()
                wire.takes = False
        assert len(wire.sent) <= OUTPUT_FACTOR * len(data)
        for body in (body for _, _, body in site.requests):
            assert len(body) <= len(data)
    finally:
        wire.lose()
    assert (site.upkeep, site.bodies) == (0, 0), "something is kept"
