"""snappy by its two specifications, in Python: the oracle of what libsnappy does here."""

from __future__ import annotations

IDENTIFIER = b"\xff\x06\x00\x00sNaPpY"


def _table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


_TABLE = _table()


def masked_crc(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def block(content: bytes) -> bytes:
    """A block of literals, and of copies where a byte is repeated."""
    out = bytearray(varint(len(content)))
    place = 0
    while place < len(content):
        part = content[place : place + 65]
        run = len(part) - len(part.lstrip(part[:1]))
        if run >= 5:
            out += bytes([0, content[place], (run - 2) << 2 | 2, 1, 0])
            place += run
            continue
        part = content[place : place + 60]
        out += bytes([(len(part) - 1) << 2]) + part
        place += len(part)
    return bytes(out)


def content_of_block(data: bytes) -> bytes:
    """Raises ValueError for what is no block."""
    length, place = 0, 0
    for shift in range(0, 35, 7):
        length |= (data[place] & 0x7F) << shift
        place += 1
        if data[place - 1] < 0x80:
            break
    out = bytearray()
    while place < len(data):
        tag, place = data[place], place + 1
        if tag & 3 == 0:
            size = (tag >> 2) + 1
            if size > 60:
                extra = size - 60
                size = int.from_bytes(data[place : place + extra], "little") + 1
                place += extra
            out += data[place : place + size]
            place += size
            continue
        if tag & 3 == 1:
            size, offset = (tag >> 2 & 7) + 4, (tag >> 5) << 8 | data[place]
            place += 1
        else:
            width = 2 if tag & 3 == 2 else 4
            size = (tag >> 2) + 1
            offset = int.from_bytes(data[place : place + width], "little")
            place += width
        if not 0 < offset <= len(out):
            raise ValueError("a copy of what is not there")
        for _ in range(size):
            out.append(out[-offset])
    if len(out) != length or place != len(data):
        raise ValueError("another length than it says")
    return bytes(out)


def chunk(kind: int, body: bytes) -> bytes:
    return bytes([kind]) + len(body).to_bytes(3, "little") + body


def framed(content: bytes, size: int = 65_536) -> bytes:
    """Chunks of `size` bytes each, compressed and not in their turn."""
    out = IDENTIFIER
    for number, start in enumerate(range(0, len(content), size)):
        part = content[start : start + size]
        crc = masked_crc(part).to_bytes(4, "little")
        out += chunk(number % 2, crc + (part if number % 2 else block(part)))
    return out


def content_of_frames(data: bytes) -> bytes:
    """Raises ValueError for what is not in the framing format."""
    if data[: len(IDENTIFIER)] != IDENTIFIER:
        raise ValueError("no stream identifier")
    out, place = b"", 0
    while place < len(data):
        kind, size = data[place], int.from_bytes(data[place + 1 : place + 4], "little")
        body = data[place + 4 : place + 4 + size]
        place += 4 + size
        if kind in (0, 1):
            part = body[4:] if kind else content_of_block(body[4:])
            if len(part) > 65_536 or masked_crc(part) != int.from_bytes(body[:4], "little"):
                raise ValueError("too long, or another checksum")
            out += part
        elif kind < 0x80:
            raise ValueError("a chunk that must not be skipped")
    if place != len(data):
        raise ValueError("truncated")
    return out
