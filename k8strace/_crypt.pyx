"""Hashes of passwords by libxcrypt, and Apache's; `_crypt.pyi` says what it promises."""

cimport cython
from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, strlen

from k8strace._md5 cimport DIGEST_SIZE, MD5, md5_add, md5_begin, md5_end
from k8strace._threads cimport Job, Port

cdef extern from "<string.h>" nogil:
    void explicit_bzero(void *, size_t)

cdef extern from "<crypt.h>" nogil:
    cdef struct crypt_data:
        pass
    char *crypt_rn(const char *phrase, const char *setting, void *data, int size)
    int CRYPT_MAX_PASSPHRASE_SIZE

cdef enum:
    ROUNDS = 1000  # of $apr1$
    MAX_SALT = 8
    APR1_SIZE = 6 + MAX_SALT + 1 + 22 + 1  # $apr1$, salt, $, hash and a zero byte

LONGEST = <int>CRYPT_MAX_PASSPHRASE_SIZE - 1
cdef bytes APR1 = b"$apr1$"

cdef struct Work:
    Job job  # the first, so that a job is its work
    const char *phrase
    const char *setting
    size_t length  # of the phrase
    size_t salt  # of $apr1$: its length
    MD5 md5
    uint8_t[DIGEST_SIZE] digest
    char[APR1_SIZE] apr1
    crypt_data data
    char *hashed


@cython.final
cdef class Hash:
    cdef Work *work
    cdef bytes phrase
    cdef bytes setting

    def __cinit__(self, bytes phrase not None, bytes setting not None):
        if 0 in phrase or 0 in setting:
            raise ValueError("a zero byte ends a string of C")
        self.work = <Work *>calloc(1, sizeof(Work))
        if self.work == NULL:
            raise MemoryError
        self.phrase = phrase
        self.setting = setting
        self.work.phrase = phrase
        self.work.setting = setting
        self.work.length = len(phrase)
        self.work.job.work = run_job
        if setting.startswith(APR1):
            self.work.salt = min(len(setting[6:].partition(b"$")[0]), MAX_SALT)
            self.work.job.work = run_apr1

    def __dealloc__(self):
        if self.work != NULL:
            explicit_bzero(self.work, sizeof(Work))
            free(self.work)

    def run(self):
        self.work.job.work(&self.work.job)

    def submit(self, Port port not None, token):
        port.submit(&self.work.job, self, token)

    @property
    def value(self):
        if self.work.hashed == NULL:
            return None
        return <bytes>self.work.hashed[:strlen(self.work.hashed)]


cdef void run_job(Job *job) noexcept nogil:
    cdef Work *work = <Work *>job
    work.hashed = crypt_rn(
        work.phrase, work.setting, &work.data, <int>sizeof(crypt_data)
    )


cdef void run_apr1(Job *job) noexcept nogil:
    """Apache's variant of md5crypt, which libxcrypt doesn't have."""
    cdef Work *work = <Work *>job
    cdef MD5 *md5 = &work.md5
    cdef uint8_t *digest = work.digest
    cdef const char *salt = work.setting + 6
    cdef size_t rest = work.length
    cdef uint8_t zero = 0
    cdef int turn
    if work.length >= <size_t>CRYPT_MAX_PASSPHRASE_SIZE:
        return
    md5_begin(md5)
    md5_add(md5, work.phrase, work.length)
    md5_add(md5, salt, work.salt)
    md5_add(md5, work.phrase, work.length)
    md5_end(md5, digest)
    md5_begin(md5)
    md5_add(md5, work.phrase, work.length)
    md5_add(md5, work.setting, 6 + work.salt)
    while rest:
        md5_add(md5, digest, min(rest, <size_t>DIGEST_SIZE))
        rest -= min(rest, <size_t>DIGEST_SIZE)
    rest = work.length
    while rest:
        if rest & 1:
            md5_add(md5, &zero, 1)
        else:
            md5_add(md5, work.phrase, 1)
        rest >>= 1
    md5_end(md5, digest)
    for turn in range(ROUNDS):
        md5_begin(md5)
        add_either(work, turn & 1)
        if turn % 3:
            md5_add(md5, salt, work.salt)
        if turn % 7:
            md5_add(md5, work.phrase, work.length)
        add_either(work, not turn & 1)
        md5_end(md5, digest)
    memcpy(work.apr1, work.setting, 6 + work.salt)
    work.apr1[6 + work.salt] = c"$"
    write_letters(work.apr1 + 7 + work.salt, digest)
    work.hashed = work.apr1


cdef void add_either(Work *work, bint is_phrase) noexcept nogil:
    if is_phrase:
        md5_add(&work.md5, work.phrase, work.length)
    else:
        md5_add(&work.md5, work.digest, DIGEST_SIZE)


cdef void write_letters(char *text, const uint8_t *digest) noexcept nogil:
    """The digest in crypt's base64, whose order of bytes is its own."""
    cdef const char *letters = (
        b"./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    )
    cdef uint32_t number
    cdef int i, place, last
    for i in range(6):
        if i < 5:
            last = 5 if i == 4 else 12 + i
            number = (<uint32_t>digest[i] << 16) | (digest[6 + i] << 8) | digest[last]
        else:
            number = digest[11]
        for place in range(4 if i < 5 else 2):
            text[4 * i + place] = letters[number & 63]
            number >>= 6
