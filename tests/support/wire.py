"""Trace requests written field by field, as no encoder would, and as hostile ones could.

What a strategy here gives is a message by protobuf's rules, unless its name says other:
fields in any order, given twice, unknown, with a wire type that isn't theirs, and with
varints longer than they must be.
"""

from __future__ import annotations

from hypothesis import strategies as st

VARINT, FIXED64, LEN, GROUP, END_GROUP, FIXED32 = range(6)


def varint(value: int, extra: int = 0, longest: int = 10) -> bytes:
    """A varint, `extra` bytes longer than it must be, but not over `longest`."""
    made = bytearray()
    while value > 0x7F:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    made.append(value)
    extra = min(extra, longest - len(made))
    if extra > 0:
        made[-1] |= 0x80
        made += b"\x80" * (extra - 1) + b"\0"
    return bytes(made)


def tag(number: int, wire: int, extra: int = 0) -> bytes:
    return varint(number << 3 | wire, extra, longest=5)


def field(number: int, content: bytes | int, extra: int = 0) -> bytes:
    """A field of bytes, or of a varint."""
    if isinstance(content, int):
        return tag(number, VARINT, extra) + varint(content, extra)
    return tag(number, LEN, extra) + varint(len(content), extra, longest=5) + content


def group(number: int, content: bytes) -> bytes:
    return tag(number, GROUP) + content + tag(number, END_GROUP)


def request(*spans: bytes, scope: bytes = b"", resource: bytes = b"") -> bytes:
    """A request of spans' contents; `scope` and `resource` are other fields there."""
    inner = scope + b"".join(field(2, span) for span in spans)
    return field(1, resource + field(2, inner))


def span(
    trace_id: bytes = b"t" * 16, span_id: bytes = b"s" * 8, more: bytes = b""
) -> bytes:
    return field(1, trace_id) + field(2, span_id) + more


Draw = st.DrawFn

_PADDING = st.sampled_from((0, 0, 0, 0, 0, 1, 2))
_NUMBERS = st.sampled_from((0, 1, 5, 127, 128, 2**32, 2**63, 2**64 - 1))
_TEXTS = st.sampled_from(
    (b"", b"a", b"key", b"service.name", "\u00e9\u20ac\U0001f600".encode())
)
_IDS = st.sampled_from(
    (b"", b"\0" * 8, b"\0" * 16, b"i" * 8, b"j" * 16, b"k" * 8, b"l" * 7)
)
_UNKNOWN = st.sampled_from((17, 99, 2**29 - 1))
_FIXED = st.sampled_from((b"\0" * 8, b"\xff" * 8, b"\x0a\x03abc\0\1\2"))
_WIRES = st.sampled_from((VARINT, FIXED64, LEN, LEN, GROUP, FIXED32))


@st.composite
def _field(
    draw: Draw, numbers: st.SearchStrategy[int], wires: st.SearchStrategy[int]
) -> bytes:
    number, wire, extra = draw(numbers), draw(wires), draw(_PADDING)
    if wire == GROUP:
        return group(number, b"".join(draw(st.lists(unknown_fields(), max_size=2))))
    if wire == VARINT:
        return field(number, draw(_NUMBERS), extra)
    if wire == LEN:
        return field(number, draw(st.binary(max_size=5)), extra)
    return tag(number, wire, extra) + draw(_FIXED)[: 8 if wire == FIXED64 else 4]


def unknown_fields() -> st.SearchStrategy[bytes]:
    """A field that no message has."""
    return _field(_UNKNOWN, _WIRES)


# What fields a message has: their numbers, and what is in them.
Known = dict[int, st.SearchStrategy[bytes | int]]


def _fixed(wire: int) -> st.SearchStrategy[bytes]:
    return _FIXED.map(lambda value: value[: 8 if wire == FIXED64 else 4])


def _message(
    draw: Draw, known: Known, size: int, fixed: dict[int, int] | None = None
) -> bytes:
    """Some of these fields and others, in any order, any of them several times."""
    parts = []
    fixed = fixed or {}
    numbers = [*known, *fixed]
    for _ in range(draw(st.integers(0, size))):
        number = numbers[draw(st.integers(0, len(numbers) - 1))]
        kind = draw(st.integers(0, 11))
        if kind == 0:
            parts.append(draw(unknown_fields()))
        elif kind == 1:
            # A wire type that isn't the field's own: protobuf takes it as unknown.
            wire = VARINT if number in fixed else FIXED64
            parts.append(draw(_field(st.just(number), st.sampled_from((wire, GROUP)))))
        elif number in fixed:
            parts.append(tag(number, fixed[number]) + draw(_fixed(fixed[number])))
        else:
            parts.append(field(number, draw(known[number]), draw(_PADDING)))
    return b"".join(parts)


@st.composite
def any_value(draw: Draw, depth: int = 0) -> bytes:
    known: Known = {1: _TEXTS, 2: _NUMBERS, 3: _NUMBERS, 7: st.binary(max_size=3)}
    if depth < 3:
        known |= {5: _values(depth + 1), 6: _pairs(depth + 1)}
    return _message(draw, known, 2, {4: FIXED64})


@st.composite
def _values(draw: Draw, depth: int) -> bytes:
    return _message(draw, {1: any_value(depth)}, 2)


@st.composite
def _pairs(draw: Draw, depth: int) -> bytes:
    return _message(draw, {1: key_value(depth)}, 2)


@st.composite
def key_value(draw: Draw, depth: int = 0) -> bytes:
    return _message(draw, {1: _TEXTS, 2: any_value(depth)}, 3)


@st.composite
def _event(draw: Draw) -> bytes:
    return _message(draw, {2: _TEXTS, 3: key_value()}, 3, {1: FIXED64})


@st.composite
def _link(draw: Draw) -> bytes:
    return _message(draw, {1: _IDS, 2: _IDS, 3: _TEXTS, 4: key_value()}, 4)


@st.composite
def _status(draw: Draw) -> bytes:
    return _message(draw, {2: _TEXTS, 3: _NUMBERS}, 2)


def _rest_of_a_span() -> Known:
    return {
        3: _TEXTS,
        5: _TEXTS,
        6: _NUMBERS,
        9: key_value(),
        10: _NUMBERS,
        11: _event(),
        15: _status(),
    }


_FIXED_OF_A_SPAN = {7: FIXED64, 8: FIXED64, 16: FIXED32}


@st.composite
def spans(draw: Draw) -> bytes:
    """What is in a span; its ids are mostly bad."""
    known = {1: _IDS, 2: _IDS, 4: _IDS, 13: _link()} | _rest_of_a_span()
    return _message(draw, known, 8, _FIXED_OF_A_SPAN)


@st.composite
def good_spans(draw: Draw) -> bytes:
    """What is in a span whose ids are good, of one of four traces."""
    before = _message(draw, _rest_of_a_span(), 4, _FIXED_OF_A_SPAN)
    trace_id = bytes([draw(st.integers(1, 4))]) * 16
    ids = field(1, trace_id, draw(_PADDING)) + field(
        2, draw(st.binary(min_size=8, max_size=8))
    )
    return before + ids + (b"" if b"\0" * 8 not in ids else field(2, b"s" * 8))


@st.composite
def _own(draw: Draw, known: Known) -> bytes:
    return _message(draw, known, 3)


@st.composite
def requests(draw: Draw, inside: st.SearchStrategy[bytes] | None = None) -> bytes:
    """Requests whose spans have these contents."""
    inside = spans() if inside is None else inside
    scope = _own({1: _TEXTS, 2: _TEXTS, 3: key_value()})
    resource = _own({1: key_value(), 3: _own({1: _TEXTS, 3: _TEXTS})})
    made = []
    for _ in range(draw(st.integers(0, 3))):
        if draw(st.integers(0, 5)) == 0:
            made.append(draw(unknown_fields()))
        scopes = []
        for _ in range(draw(st.integers(0, 3))):
            ahead = _message(draw, {1: scope, 3: _TEXTS}, 2)
            inner = b"".join(
                field(2, one, draw(_PADDING)) for one in draw(st.lists(inside, max_size=4))
            )
            scopes.append(_message(draw, {1: resource, 3: _TEXTS}, 2))
            scopes.append(
                field(2, ahead + inner + _message(draw, {3: _TEXTS}, 1), draw(_PADDING))
            )
        made.append(field(1, b"".join(scopes), draw(_PADDING)))
    return b"".join(made)


def chunked(
    inside: st.SearchStrategy[bytes] | None = None,
) -> st.SearchStrategy[tuple[bytes, ...]]:
    """Requests of good spans (or others) in chunks, as payloads have them."""
    return st.lists(requests(good_spans() if inside is None else inside), max_size=3).map(
        tuple
    )


@st.composite
def damaged(draw: Draw) -> bytes:
    """A request with some bytes of it changed, taken out, put in or cut off."""
    whole = bytearray(draw(requests()))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(whole)))
        how = draw(st.sampled_from(("change", "remove", "insert", "cut")))
        byte = draw(st.sampled_from((0x00, 0x01, 0x0A, 0x0B, 0x0C, 0x12, 0x7F, 0x80, 0xFF)))
        if how == "change":
            whole[at : at + 1] = bytes([byte])
        elif how == "remove":
            del whole[at : at + 1]
        elif how == "insert":
            whole[at:at] = bytes([byte])
        else:
            del whole[at:]
    return bytes(whole)
