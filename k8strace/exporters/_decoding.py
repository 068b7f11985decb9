"""Requests that are read with protobuf and printed in Python: bounded in bytes and in time.

Decoded and printed a request takes many times its bytes, and Python a microsecond or more
for each of its fields. So exporters that do it get requests in steps of `MAX_BYTES`; what a
step makes is in the budget before it is made, and it is made a little at a time. A step
that could take too much of the budget is halved. A single span that is larger is taken
whole, if it is within `MAX_FIELDS` and `MAX_SPAN`, and if the budget could hold it.

Where the budget is used up a small step goes past its limit, so that what fills it goes on;
a larger one is halved until it is small, and a large span is refused for now.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from math import inf

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)

from k8strace._complexity import fields_within
from k8strace.background import Turn
from k8strace.errors import MalformedPayloadError, RejectedError
from k8strace.exporters._delivery import TooLargeError
from k8strace.passes import Loan, Spare
from k8strace.payload import Payload
from k8strace.units import MIB

MAX_BYTES = 64 * 1024
MAX_SPANS = 500
MAX_FIELDS = 40_000  # read in a few milliseconds; a step has fewer
MAX_SPAN = 4 * MIB

# Bytes, as measured with requests of the worst shapes.
PER_FIELD = 400  # protobuf's object of an empty message, Python's, and what is printed
PER_SPAN = 600  # the lines of an empty span
PER_BYTE = 16  # of text: copies, four bytes a character, and escapes of six characters
BUDGET_SHARE = 4  # a quarter of the budget is the most that one step may take
PAST_SHARE = 32  # and this part of it is the most that goes past its limit

LOOK = 64  # fragments, or `LOOK_BYTES` of them, between two looks at the clock
LOOK_BYTES = 16 * 1024
SLICE = 64 * 1024  # bytes of what is printed that become one piece
SLICE_FRAGMENTS = 4096

Fragments = Iterator[bytes]


async def printed(
    payload: Payload,
    spare: Spare,
    fragments: Callable[[ExportTraceServiceRequest], Fragments],
    until: float = inf,
) -> tuple[tuple[bytes, ...], Loan]:
    """What `fragments` makes of the request, and what holds it in the budget.

    Raises RejectedError; RefusedError where there is no room up to the loop's time `until`.
    """
    need, lease = _need(payload), payload.any_lease
    if lease is not None and need > lease.budget.limit // PAST_SHARE:
        if payload.spans > 1 and not lease.budget.fits(need):
            raise TooLargeError("the memory budget has no room to print as much at once")
        loan = await spare.lend(need, payload, until, may_pass=False)
    else:
        loan = await spare.lend(need, payload, until)
    try:
        made = await gathered(fragments(_decoded(payload)))
    except BaseException:
        loan.end()
        raise
    if loan.lease is not None:
        loan.lease.shrink_to(sum(map(len, made)))
    return made, loan


async def gathered(fragments: Iterable[bytes]) -> tuple[bytes, ...]:
    """All fragments, in larger pieces; others go on meanwhile."""
    made: list[bytes] = []
    some: list[bytes] = []
    size = number = since = 0
    turn = Turn()
    for fragment in fragments:
        some.append(fragment)
        size += len(fragment)
        number += 1
        since += len(fragment)
        if size >= SLICE or len(some) >= SLICE_FRAGMENTS:
            made.append(b"".join(some))
            some, size = [], 0
        if number < LOOK and since < LOOK_BYTES:
            continue
        number = since = 0
        await turn.end()
    if some:
        made.append(b"".join(some))
    return tuple(made)


def _need(payload: Payload) -> int:
    """Bytes that reading and printing it may take.

    Raises RejectedError; TooLargeError where less of it may be printed.
    """
    lease = payload.any_lease
    try:
        fields = fields_within(payload.chunks, MAX_FIELDS)
    except MalformedPayloadError as error:
        raise _undecodable(error) from error
    if fields is None or payload.size > MAX_SPAN:
        raise TooLargeError(
            f"a span with its resource, of {payload.size} bytes, is too large to be "
            f"printed: at most {MAX_FIELDS} fields and {MAX_SPAN} bytes are"
        )
    need = PER_FIELD * fields + PER_SPAN * payload.spans + PER_BYTE * payload.size
    if lease is not None and need > lease.budget.limit // BUDGET_SHARE:
        raise TooLargeError(
            f"a span with its resource, of {payload.size} bytes and {fields} fields, is "
            f"too large to be printed in the memory budget ({lease.budget.limit} bytes)"
        )
    return need


def _decoded(payload: Payload) -> ExportTraceServiceRequest:
    try:
        return ExportTraceServiceRequest.FromString(b"".join(payload.chunks))
    except DecodeError as error:
        raise _undecodable(error) from error


def _undecodable(error: Exception) -> RejectedError:
    return RejectedError(f"spans that cannot be decoded: {error}", "decode_error")
