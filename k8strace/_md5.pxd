"""MD5 (RFC 1321), for the hashes of passwords that are made of it."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

cdef enum:
    BLOCK_SIZE = 64
    DIGEST_SIZE = 16

cdef struct MD5:
    uint32_t[4] state
    uint64_t length  # bytes so far
    uint8_t[BLOCK_SIZE] block

cdef extern from *:
    """
    static const uint32_t md5_sines[64] = {
        0xd76aa478, 0xe8c7b756, 0x242070db, 0xc1bdceee, 0xf57c0faf, 0x4787c62a,
        0xa8304613, 0xfd469501, 0x698098d8, 0x8b44f7af, 0xffff5bb1, 0x895cd7be,
        0x6b901122, 0xfd987193, 0xa679438e, 0x49b40821, 0xf61e2562, 0xc040b340,
        0x265e5a51, 0xe9b6c7aa, 0xd62f105d, 0x02441453, 0xd8a1e681, 0xe7d3fbc8,
        0x21e1cde6, 0xc33707d6, 0xf4d50d87, 0x455a14ed, 0xa9e3e905, 0xfcefa3f8,
        0x676f02d9, 0x8d2a4c8a, 0xfffa3942, 0x8771f681, 0x6d9d6122, 0xfde5380c,
        0xa4beea44, 0x4bdecfa9, 0xf6bb4b60, 0xbebfbc70, 0x289b7ec6, 0xeaa127fa,
        0xd4ef3085, 0x04881d05, 0xd9d4d039, 0xe6db99e5, 0x1fa27cf8, 0xc4ac5665,
        0xf4292244, 0x432aff97, 0xab9423a7, 0xfc93a039, 0x655b59c3, 0x8f0ccc92,
        0xffeff47d, 0x85845dd1, 0x6fa87e4f, 0xfe2ce6e0, 0xa3014314, 0x4e0811a1,
        0xf7537e82, 0xbd3af235, 0x2ad7d2bb, 0xeb86d391};
    static const uint8_t md5_shifts[16] = {
        7, 12, 17, 22, 5, 9, 14, 20, 4, 11, 16, 23, 6, 10, 15, 21};
    """
    const uint32_t[64] md5_sines  # of 1 to 64, times 2 ** 32
    const uint8_t[16] md5_shifts


cdef inline void md5_begin(MD5 *self) noexcept nogil:
    self.state[0] = 0x67452301
    self.state[1] = 0xEFCDAB89
    self.state[2] = 0x98BADCFE
    self.state[3] = 0x10325476
    self.length = 0


cdef inline void md5_block(MD5 *self, const uint8_t *data) noexcept nogil:
    cdef uint32_t[16] words
    cdef uint32_t a = self.state[0], b = self.state[1]
    cdef uint32_t c = self.state[2], d = self.state[3], f, turned
    cdef int i, which, shift
    memcpy(words, data, BLOCK_SIZE)  # of a machine whose lowest byte comes first
    for i in range(64):
        if i < 16:
            f = (b & c) | (~b & d)
            which = i
        elif i < 32:
            f = (d & b) | (~d & c)
            which = 5 * i + 1
        elif i < 48:
            f = b ^ c ^ d
            which = 3 * i + 5
        else:
            f = c ^ (b | ~d)
            which = 7 * i
        f += a + md5_sines[i] + words[which & 15]
        a, d, c = d, c, b
        shift = md5_shifts[(i // 16) * 4 + (i & 3)]
        turned = (f << shift) | (f >> (32 - shift))
        b += turned
    self.state[0] += a
    self.state[1] += b
    self.state[2] += c
    self.state[3] += d


cdef inline void md5_add(MD5 *self, const void *data, size_t size) noexcept nogil:
    cdef const uint8_t *rest = <const uint8_t *>data
    cdef size_t held = self.length % BLOCK_SIZE, part
    self.length += size
    while size:
        if not held and size >= BLOCK_SIZE:
            md5_block(self, rest)
            part = BLOCK_SIZE
        else:
            part = min(size, BLOCK_SIZE - held)
            memcpy(self.block + held, rest, part)
            held = (held + part) % BLOCK_SIZE
            if not held:
                md5_block(self, self.block)
        rest += part
        size -= part


cdef inline void md5_end(MD5 *self, uint8_t *digest) noexcept nogil:
    cdef uint64_t bits = 8 * self.length
    cdef size_t held = self.length % BLOCK_SIZE
    self.block[held] = 0x80
    held += 1
    if held > BLOCK_SIZE - sizeof(bits):
        memset(self.block + held, 0, BLOCK_SIZE - held)
        md5_block(self, self.block)
        held = 0
    memset(self.block + held, 0, BLOCK_SIZE - sizeof(bits) - held)
    memcpy(self.block + BLOCK_SIZE - sizeof(bits), &bits, sizeof(bits))
    md5_block(self, self.block)
    memcpy(digest, self.state, DIGEST_SIZE)
