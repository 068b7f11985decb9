"""A connection of HTTP/1, byte by byte."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from itertools import pairwise

import h11
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from k8strace.net import http1
from k8strace.net.site import LOOKAHEAD, READ_SIZE, Limits
from tests.support.http1 import Echo, Wire

HOST = b"Host: x\r\n"
CONNECTION = Limits().connection


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    found = asyncio.new_event_loop()
    yield found
    found.close()


def post(body: bytes, fields: bytes = b"", target: bytes = b"/") -> bytes:
    head = b"POST %b HTTP/1.1\r\n" % target + HOST + fields
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


def chunked(*parts: bytes, end: bytes = b"0\r\n\r\n", fields: bytes = b"") -> bytes:
    head = b"POST / HTTP/1.1\r\n" + HOST + fields + b"Transfer-Encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in parts if p) + end


def statuses(data: bytes) -> list[int]:
    """The statuses of responses, read by h11; there is nothing else in `data`."""
    client = h11.Connection(h11.CLIENT)
    found: list[int] = []
    if not data:
        return found
    client.receive_data(data)
    while True:
        client.send(h11.Request(method="POST", target="/", headers=[("Host", "x")]))
        client.send(h11.EndOfMessage())
        while True:
            event = client.next_event()
            if event is h11.NEED_DATA or isinstance(event, h11.ConnectionClosed):
                assert not client.trailing_data[0]
                return found
            if isinstance(event, (h11.Response, h11.InformationalResponse)):
                found.append(event.status_code)
            if isinstance(event, h11.EndOfMessage):
                break
        if client.our_state is h11.MUST_CLOSE:
            return found
        client.start_next_cycle()


KINDS: list[Callable[[bytes], bytes]] = [
    post,
    lambda body: post(body, b"Expect: 100-continue\r\n"),
    lambda body: chunked(body, body[:100]),
    lambda body: chunked(body, end=b"0;x\r\nT: u\r\n\r\n"),
    lambda _: b"\r\nGET /x HTTP/1.1\r\n" + HOST + b"\r\n",
    lambda body: post(body, b"Connection: Upgrade\r\nUpgrade: h2c\r\n"),
    lambda body: post(body, target=b"/refused"),
]
REQUESTS = st.lists(
    st.tuples(
        st.integers(0, len(KINDS) - 1),
        st.integers(0, 60) | st.sampled_from([40_000, 90_000]),
    ),
    min_size=1,
    max_size=5,
)


@pytest.mark.parametrize("waits", [False, True])
@settings(suppress_health_check=list(HealthCheck))
@given(requests=REQUESTS, cuts=st.lists(st.integers(0, 500_000), max_size=12))
def test_how_bytes_are_split_makes_no_difference(
    loop: asyncio.AbstractEventLoop,
    waits: bool,
    requests: list[tuple[int, int]],
    cuts: list[int],
) -> None:
    """The bytes of whole requests, in pieces of any sizes: the same requests, the same
    responses but for those to `Expect`, and nothing is held at the end."""
    data = b"".join(KINDS[kind](b"y" * size) for kind, size in requests)
    ends = sorted({0, *(cut % (len(data) + 1) for cut in cuts), len(data)})
    pieces = [data[a:b] for a, b in pairwise(ends)]
    seen, answers = [], []
    for parts, site in (([data], Echo()), (pieces, Echo(waits=waits))):
        wire = Wire(site, loop)
        text = wire.exchange(*parts)
        seen.append(site.requests)
        answers.append(text.replace(b"HTTP/1.1 100 Continue\r\n\r\n", b""))
        assert site.bodies == 0
        assert site.upkeep == CONNECTION
        assert site.most <= CONNECTION + 2 * READ_SIZE
        wire.lose()
        assert (site.upkeep, site.reasons) == (0, [])
    assert seen[0] == seen[1]
    assert answers[0] == answers[1]
    assert len(statuses(answers[0])) == len(requests)


def test_a_head_byte_by_byte(loop: asyncio.AbstractEventLoop) -> None:
    site = Echo()
    wire = Wire(site, loop)
    data = post(b"body", b"X: " + b"y" * 20_000 + b"\r\n")
    wire.exchange(*(data[at : at + 1] for at in range(len(data))))
    assert statuses(wire.text) == [200]
    assert site.most <= 3 * (CONNECTION + len(data))
    wire.lose()
    assert site.upkeep == 0


@pytest.mark.parametrize("room", [CONNECTION, CONNECTION + 100])
def test_half_a_head_for_which_there_is_no_room(
    loop: asyncio.AbstractEventLoop, room: int
) -> None:
    site = Echo(room=room)
    wire = Wire(site, loop)
    wire.exchange(b"POST / HTTP/1.1\r\n" + HOST, b"X: " + b"y" * 100)
    assert statuses(wire.text) == [503]
    assert site.reasons == ["memory"]
    assert wire.has_ended
    assert site.upkeep == CONNECTION


def test_a_connection_for_which_there_is_no_room(
    loop: asyncio.AbstractEventLoop,
) -> None:
    site = Echo(room=CONNECTION - 1)
    wire = Wire(site, loop)
    assert (wire.is_closed, site.reasons) == (True, ["memory"])
    wire.lose()
    assert site.upkeep == 0


def test_many_fields_are_in_the_upkeep_while_their_request_waits(
    loop: asyncio.AbstractEventLoop,
) -> None:
    data = post(b"", b"a:\r\n" * 200)
    for room, status in ((1 << 20, 200), (CONNECTION + 2000, 503)):
        site = Echo(room=room)
        wire = Wire(site, loop)
        assert statuses(wire.exchange(data)) == [status]
        assert site.upkeep == CONNECTION
        wire.lose()


def test_no_more_is_read_than_is_granted_while_a_request_waits(
    loop: asyncio.AbstractEventLoop,
) -> None:
    site = Echo(waits=True)
    wire = Wire(site, loop)
    rest = wire.feed(post(b"y" * 100_000) + post(b"z"))
    assert len(rest) >= 100_000 - READ_SIZE
    assert not wire.is_reading
    assert site.upkeep <= CONNECTION + READ_SIZE
    wire.exchange(rest)
    assert [body[:1] for _, _, body in site.requests] == [b"y", b"z"]
    assert statuses(wire.text) == [200, 200]
    wire.lose()
    wire = Wire(site, loop)
    assert not wire.feed(post(b""))
    assert len(wire.feed(bytes(10_000))) == 10_000 - LOOKAHEAD
    wire.lose()
    assert (site.upkeep, site.bodies) == (0, 0)


def test_who_takes_no_responses_is_not_read(loop: asyncio.AbstractEventLoop) -> None:
    site = Echo()
    wire = Wire(site, loop)
    wire.takes = False
    flood = post(b"a") * 1000
    rest = wire.feed(flood)
    assert len(site.requests) == 1
    assert len(rest) >= len(flood) - READ_SIZE
    assert site.upkeep <= CONNECTION + READ_SIZE
    wire.take()
    wire.exchange(rest)
    assert len(site.requests) == len(statuses(wire.text)) == 1000
    wire.lose()
    assert site.upkeep == 0


def test_expectations(loop: asyncio.AbstractEventLoop) -> None:
    whole = post(b"body", b"Expect: 100-continue\r\n")
    wire = Wire(Echo(), loop)
    assert wire.exchange(whole[:-4]) == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert statuses(wire.exchange(whole[-4:])) == [100, 200]
    assert statuses(wire.exchange(whole)) == [100, 200, 200]
    # Whose body is not asked for may send it or not: nobody knows what comes next.
    wire = Wire(Echo(), loop)
    head = post(b"body", b"Expect: 100-continue\r\n", b"/refused")[:-4]
    assert statuses(wire.exchange(head)) == [500]
    assert wire.has_ended


@pytest.mark.parametrize(
    "rest", [post(b"y" * 300_000, target=b"/refused"), b""], ids=["length", "chunks"]
)
def test_the_body_of_a_refused_request_is_passed_over(
    loop: asyncio.AbstractEventLoop, rest: bytes
) -> None:
    data = rest or chunked(b"y" * 90_000, b"z").replace(b"POST /", b"POST /refused", 1)
    site = Echo()
    wire = Wire(site, loop)
    assert statuses(wire.exchange(data[:1000], data[1000:] + post(b"next"))) == [500, 200]
    assert [body for _, _, body in site.requests] == [b"next"]
    assert site.most <= CONNECTION + READ_SIZE


def test_a_chunked_body_that_is_too_large_or_has_no_room(
    loop: asyncio.AbstractEventLoop,
) -> None:
    for site, status, reason in (
        (Echo(max_body=100_000), 413, "msg_too_large"),
        (Echo(room=100_000), 503, "memory"),
    ):
        wire = Wire(site, loop)
        data = chunked(b"y" * 70_000, b"z" * 50_000)
        assert statuses(wire.exchange(data + post(b"next"))) == [status, 200]
        assert site.reasons == [reason]
        assert site.bodies == 0
    exact = Echo(max_body=100_000)
    wire = Wire(exact, loop)
    assert statuses(wire.exchange(chunked(b"y" * 100_000))) == [200]


def test_heads_and_responses_of_other_kinds(loop: asyncio.AbstractEventLoop) -> None:
    for data, found, ends in (
        (b"HEAD / HTTP/1.1\r\n" + HOST + b"\r\n", [200], False),
        (post(b"abc", b"Connection: close\r\n") + post(b"d"), [200], True),
        (b"GET / HTTP/1.0\r\n\r\n", [200], True),
        (b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", [200], False),
        (b"CONNECT a:1 HTTP/1.1\r\n" + HOST + b"\r\n", [200], False),
        (chunked(b"a", end=b"x\r\n"), [400], True),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", [400], True),
        (b"\x16\x03\x01\x02\x00\x01", [400], True),
        (b"\x16", [], False),
        (b"GET / HTTP/1.1\nHost: x\n\n", [400], True),
        (b"X" * 70_000, [431], True),
        (b"\r\n" * 50_000, [], False),
    ):
        wire = Wire(Echo(), loop)
        assert statuses(wire.exchange(data)) == found, data[:40]
        assert wire.has_ended == ends, data[:40]
        assert (b"Connection: close" in wire.text) == (ends and bool(found))
        wire.lose()
        assert wire.site.upkeep == 0


@pytest.mark.parametrize("data", [post(b"abc")[:-1], chunked(b"abc")[:-3]])
def test_who_goes_in_the_middle_of_a_body_is_counted(
    loop: asyncio.AbstractEventLoop, data: bytes
) -> None:
    site = Echo()
    wire = Wire(site, loop)
    wire.exchange(data)
    assert site.bodies > 0
    wire.lose()
    assert (site.reasons, site.bodies, site.upkeep) == (["incomplete"], 0, 0)


def test_limits_of_time(loop: asyncio.AbstractEventLoop) -> None:
    now = loop.time()
    for data, after, found, reasons in (
        (b"", 25.0, "closed", []),
        (b"POST /", 25.0, "closed", ["slow"]),
        (post(b"abc")[:-1], 15.0, "open", []),
        (post(b"abc")[:-1], 25.0, "503", ["slow"]),
        (chunked(b"a")[:-3], 25.0, "503", ["slow"]),
        (post(bytes(100_000))[:-1], 25.0, "open", []),
        (post(b"abc"), 1e9, "open", []),
    ):
        wire = Wire(Echo(), loop)
        wire.exchange(data)
        wire.connection.look_after(now + after)
        slow = b"HTTP/1.1 503 " in wire.text
        assert ("closed" if wire.is_closed else "503" if slow else "open") == found
        assert wire.site.reasons == reasons
        if slow:  # what is left of the body is passed over for a while
            wire.connection.look_after(loop.time() + http1.LINGER + 1)
            assert wire.has_ended
            wire.connection.look_after(loop.time() + http1.LINGER + 1)
            assert wire.is_closed
        wire.lose()
        assert (wire.site.upkeep, wire.site.bodies) == (0, 0)


def test_who_does_not_take_a_response_is_cut_off(loop: asyncio.AbstractEventLoop) -> None:
    wire = Wire(Echo(), loop)
    wire.takes = False
    wire.feed(post(b"a"))
    wire.connection.look_after(loop.time() + 59)
    assert not wire.is_closed
    wire.connection.look_after(loop.time() + 61)
    assert wire.is_closed
