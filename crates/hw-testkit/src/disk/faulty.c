/* Loaded before libc into a process under test: calls that write below one directory are slow or
 * fail, as memory shared with the test says. Described in `faulty.rs`. */
#define _GNU_SOURCE
#include <ctype.h>
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

#define NAME 4096

/* The memory; the order of its fields stands in `faulty.rs`, too. */
struct page {
    volatile uint32_t sync_delay_ms; /* before each sync */
    volatile uint32_t sync_error;    /* errno of each sync; 0 for none */
    volatile int64_t left;           /* calls until one fails; 0 for never */
    volatile uint32_t call_error;    /* its errno */
    volatile uint32_t lock;          /* held while a place is added */
    volatile uint64_t calls;         /* counted so far */
    char place[480];                 /* only calls of this place count for `left`; empty for all */
    char places[15872];              /* all that were seen, each behind a line feed */
};

static struct page *page;
static char directory[NAME];
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

/* The name of an open file below the directory. */
static int is_ours(int fd, char *path) {
    if (!page) return 0;
    char name[64];
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    ssize_t got = readlink(name, path, NAME - 1);
    if (got <= 0) return 0;
    path[got] = 0;
    return is_below(path);
}

/* Whether the last name of a path is one that a library made up for a file that is renamed. */
static int is_made_up(const char *path) {
    const char *last = strrchr(path, '/');
    return last && strncmp(last, "/.tmp", 5) == 0;
}

/* A place is a call and a path below the directory in which numbers and made up names are `#`. */
static void name_place(char *place, size_t room, const char *call, const char *path) {
    size_t at = (size_t)snprintf(place, room, "%s ", call);
    const char *from = path + length;
    while (*from == '/') from++;
    const char *made_up = is_made_up(path) ? strrchr(path, '/') + 5 : NULL;
    while (*from && *from != ' ' && at + 2 < room) {
        if (from == made_up || isdigit((unsigned char)*from)) {
            place[at++] = '#';
            if (from == made_up) break;
            while (isdigit((unsigned char)*from)) from++;
        } else {
            place[at++] = *from++;
        }
    }
    place[at] = 0;
}

/* Adds a place to those that were seen; behind a line feed, and with one behind it. */
static void see(const char *place) {
    char line[sizeof page->place + 2];
    snprintf(line, sizeof line, "\n%s\n", place);
    if (strstr(page->places, line)) return;
    /* Whoever was killed while it held this holds it for ever. */
    for (int tries = 0; __atomic_exchange_n(&page->lock, 1, __ATOMIC_ACQUIRE); tries++) {
        if (tries > 1 << 20) return;
    }
    size_t used = strlen(page->places);
    if (!strstr(page->places, line) && used + strlen(line) < sizeof page->places) {
        strcpy(page->places + used, used ? line + 1 : line);
    }
    __atomic_store_n(&page->lock, 0, __ATOMIC_RELEASE);
}

/* Counts a call; whether this is the one that fails. */
static int fails(const char *call, const char *path) {
    char place[sizeof page->place];
    name_place(place, sizeof place, call, path);
    see(place);
    __atomic_add_fetch(&page->calls, 1, __ATOMIC_RELAXED);
    if (page->place[0] && strcmp(page->place, place) != 0) return 0;
    if (page->left > 0 && __atomic_sub_fetch(&page->left, 1, __ATOMIC_RELAXED) == 0) {
        errno = (int)page->call_error;
        return 1;
    }
    return 0;
}

static int sync_fails(const char *call, const char *path) {
    uint32_t delay = page->sync_delay_ms;
    if (delay) {
        struct timespec time = {delay / 1000, (long)(delay % 1000) * 1000000};
        nanosleep(&time, NULL);
    }
    if (page->sync_error) {
        errno = (int)page->sync_error;
        return 1;
    }
    return fails(call, path);
}

#define REAL(name) \
    static __typeof__(&name) real; \
    if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

/* The error is part of what happened already. */
static int lose(const char *path) {
    REAL(unlink);
    return real(path);
}

int fsync(int fd) {
    REAL(fsync);
    char path[NAME];
    if (!is_ours(fd, path)) return real(fd);
    if (sync_fails("fsync", path)) return -1;
    int done = real(fd);
    /* The library that makes such names renames them by a system call of its own, right behind the
     * sync. That one cannot be made to fail, but it fails by itself when its file is gone. */
    if (done == 0 && is_made_up(path) && fails("rename", path)) lose(path);
    return done;
}

int fdatasync(int fd) {
    REAL(fdatasync);
    char path[NAME];
    return is_ours(fd, path) && sync_fails("fdatasync", path) ? -1 : real(fd);
}

ssize_t write(int fd, const void *bytes, size_t count) {
    REAL(write);
    char path[NAME];
    return is_ours(fd, path) && fails("write", path) ? -1 : real(fd, bytes, count);
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    REAL(writev);
    char path[NAME];
    return is_ours(fd, path) && fails("write", path) ? -1 : real(fd, parts, count);
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t at) {
    REAL(pwrite64);
    char path[NAME];
    return is_ours(fd, path) && fails("write", path) ? -1 : real(fd, bytes, count, at);
}

int ftruncate64(int fd, off64_t size) {
    REAL(ftruncate64);
    char path[NAME];
    return is_ours(fd, path) && fails("ftruncate", path) ? -1 : real(fd, size);
}

int rename(const char *from, const char *to) {
    REAL(rename);
    return is_below(to) && fails("rename", to) ? -1 : real(from, to);
}

int unlink(const char *path) {
    REAL(unlink);
    return is_below(path) && fails("unlink", path) ? -1 : real(path);
}

int rmdir(const char *path) {
    REAL(rmdir);
    return is_below(path) && fails("unlink", path) ? -1 : real(path);
}

int unlinkat(int directory_fd, const char *name, int flags) {
    REAL(unlinkat);
    char path[NAME];
    int ours = name[0] == '/' ? is_below(name) : is_ours(directory_fd, path);
    if (!ours) return real(directory_fd, name, flags);
    size_t used = name[0] == '/' ? 0 : strlen(path);
    snprintf(path + used, sizeof path - used, used ? "/%s" : "%s", name);
    return fails("unlink", path) ? -1 : real(directory_fd, name, flags);
}

int mkdir(const char *path, mode_t mode) {
    REAL(mkdir);
    return is_below(path) && fails("mkdir", path) ? -1 : real(path, mode);
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
    const int writes = (flags & O_ACCMODE) != O_RDONLY;
    const char *call = flags & O_CREAT ? "create" : "open";
    return is_below(path) && writes && fails(call, path) ? -1 : real(path, flags, mode);
}
