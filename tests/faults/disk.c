/* A disk on which a call fails: the one and the error that the file DISK_FILE names, such as
   "fdatasync 5", until the file is empty. For LD_PRELOAD. A call that fails does nothing. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

static int fails(const char *call) {
    char text[64] = {0}, name[32];
    int number, file = open(getenv("DISK_FILE"), O_RDONLY);
    if (file < 0 || (read)(file, text, sizeof text - 1) < 0)
        abort();
    close(file);
    if (sscanf(text, "%31s %d", name, &number) != 2 || strcmp(name, call))
        return 0;
    errno = number;
    return 1;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

int fdatasync(int fd) { return fails("fdatasync") ? -1 : REAL(fdatasync)(fd); }

int fsync(int fd) { return fails("fsync") ? -1 : REAL(fsync)(fd); }

int renameat(int from, const char *old, int to, const char *new) {
    return fails("renameat") ? -1 : REAL(renameat)(from, old, to, new);
}

int posix_fallocate(int fd, off_t offset, off_t size) {
    return fails("posix_fallocate") ? errno : REAL(posix_fallocate)(fd, offset, size);
}

int ftruncate(int fd, off_t size) {
    return fails("ftruncate") ? -1 : REAL(ftruncate)(fd, size);
}

ssize_t pwritev(int fd, const struct iovec *vectors, int count, off_t offset) {
    if (fails("pwritev"))
        return -1;
    if (!fails("short"))
        return REAL(pwritev)(fd, vectors, count, offset);
    /* One byte at a time is what the system may do, too. */
    struct iovec first = {vectors->iov_base, vectors->iov_len > 7 ? 7 : vectors->iov_len};
    return REAL(pwritev)(fd, &first, 1, offset);
}

/* As they are called where files may be large. */
int posix_fallocate64(int, off_t, off_t) __attribute__((alias("posix_fallocate")));
int ftruncate64(int, off_t) __attribute__((alias("ftruncate")));
ssize_t pwritev64(int, const struct iovec *, int, off_t) __attribute__((alias("pwritev")));
