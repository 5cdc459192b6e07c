/* Loaded before libc into a process under test: calls that write below one directory are slow or
 * fail, as a page of memory shared with the test says. Described in `faulty.rs`. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

/* The page; the order of its fields stands in `faulty.rs`, too. */
struct page {
    volatile uint32_t sync_delay_ms; /* before each sync */
    volatile uint32_t sync_error;    /* errno of each sync; 0 for none */
    volatile int64_t left;           /* calls until one fails; 0 for never */
    volatile uint32_t call_error;    /* its errno */
    volatile uint32_t _unused;
    volatile uint64_t calls;         /* counted so far */
};

static struct page *page;
static char directory[4096];
static size_t length;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("HEADWATER_TEST_DISK_PAGE");
    const char *below = getenv("HEADWATER_TEST_DISK_DIR");
    if (!path || !below || strlen(below) >= sizeof directory) return;
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0) return;
    void *at = mmap(NULL, sizeof *page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (at == MAP_FAILED) return;
    strcpy(directory, below);
    length = strlen(below);
    page = at;
}

static int is_below(const char *path) { return page && strncmp(path, directory, length) == 0; }

static int is_ours(int fd) {
    if (!page) return 0;
    char name[64], path[4096];
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    ssize_t got = readlink(name, path, sizeof path - 1);
    if (got <= 0) return 0;
    path[got] = 0;
    return is_below(path);
}

/* Counts a call; whether this is the one that fails. */
static int fails(void) {
    __atomic_add_fetch(&page->calls, 1, __ATOMIC_RELAXED);
    if (page->left > 0 && __atomic_sub_fetch(&page->left, 1, __ATOMIC_RELAXED) == 0) {
        errno = (int)page->call_error;
        return 1;
    }
    return 0;
}

static int sync_fails(void) {
    uint32_t delay = page->sync_delay_ms;
    if (delay) {
        struct timespec time = {delay / 1000, (long)(delay % 1000) * 1000000};
        nanosleep(&time, NULL);
    }
    if (page->sync_error) {
        errno = (int)page->sync_error;
        return 1;
    }
    return fails();
}

#define REAL(name) \
    static __typeof__(&name) real; \
    if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

int fsync(int fd) {
    REAL(fsync);
    return is_ours(fd) && sync_fails() ? -1 : real(fd);
}

int fdatasync(int fd) {
    REAL(fdatasync);
    return is_ours(fd) && sync_fails() ? -1 : real(fd);
}

ssize_t write(int fd, const void *bytes, size_t count) {
    REAL(write);
    return is_ours(fd) && fails() ? -1 : real(fd, bytes, count);
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    REAL(writev);
    return is_ours(fd) && fails() ? -1 : real(fd, parts, count);
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t at) {
    REAL(pwrite64);
    return is_ours(fd) && fails() ? -1 : real(fd, bytes, count, at);
}

int ftruncate64(int fd, off64_t size) {
    REAL(ftruncate64);
    return is_ours(fd) && fails() ? -1 : real(fd, size);
}

int rename(const char *from, const char *to) {
    REAL(rename);
    return is_below(to) && fails() ? -1 : real(from, to);
}

int unlink(const char *path) {
    REAL(unlink);
    return is_below(path) && fails() ? -1 : real(path);
}

int mkdir(const char *path, mode_t mode) {
    REAL(mkdir);
    return is_below(path) && fails() ? -1 : real(path, mode);
}

int open64(const char *path, int flags, ...) {
    REAL(open64);
    mode_t mode = 0;
    if (flags & (O_CREAT | O_TMPFILE)) {
        va_list more;
        va_start(more, flags);
        mode = va_arg(more, mode_t);
        va_end(more);
    }
    return is_below(path) && (flags & O_ACCMODE) != O_RDONLY && fails() ? -1 : real(path, flags, mode);
}
