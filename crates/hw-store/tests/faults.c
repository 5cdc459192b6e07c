// Lets one system call fail: preloaded into a process whose store is tried.
//
// FAULT_CALL is the call's name, FAULT_AT the number (from 1) of the call that fails among those on
// files below FAULT_BELOW, FAULT_TIMES how many fail from there on, FAULT_ERRNO the error.
// FAULT_MARK is a file that is made when the first one fails.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

static atomic_long seen;

static int due(const char *call, const char *path) {
    const char *wanted = getenv("FAULT_CALL"), *below = getenv("FAULT_BELOW");
    if (!wanted || !below || strcmp(wanted, call) || strncmp(path, below, strlen(below))) return 0;
    long at = atol(getenv("FAULT_AT")), times = atol(getenv("FAULT_TIMES"));
    long now = atomic_fetch_add(&seen, 1) + 1;
    if (now < at || now >= at + times) return 0;
    static int (*make)(const char *, mode_t);
    if (!make) make = dlsym(RTLD_NEXT, "creat64");
    if (now == at) close(make(getenv("FAULT_MARK"), 0600));
    errno = atoi(getenv("FAULT_ERRNO"));
    return 1;
}

static int due_fd(const char *call, int fd) {
    char link[64], path[4096];
    int before = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    errno = before;
    if (length < 0) return 0;
    path[length] = 0;
    return due(call, path);
}

#define REAL(name) \
    static __typeof__(&name) real; \
    if (!real) real = dlsym(RTLD_NEXT, #name)

static int flags_mode(int flags, va_list arguments) {
    return flags & (O_CREAT | O_TMPFILE) ? va_arg(arguments, int) : 0;
}

int open64(const char *path, int flags, ...) {
    REAL(open64);
    va_list arguments;
    va_start(arguments, flags);
    int mode = flags_mode(flags, arguments);
    va_end(arguments);
    return due("open", path) ? -1 : real(path, flags, mode);
}

ssize_t write(int fd, const void *bytes, size_t length) {
    REAL(write);
    return due_fd("write", fd) ? -1 : real(fd, bytes, length);
}

ssize_t pread64(int fd, void *bytes, size_t length, off64_t at) {
    REAL(pread64);
    return due_fd("pread", fd) ? -1 : real(fd, bytes, length, at);
}

ssize_t read(int fd, void *bytes, size_t length) {
    REAL(read);
    return due_fd("read", fd) ? -1 : real(fd, bytes, length);
}

int fsync(int fd) {
    REAL(fsync);
    return due_fd("fsync", fd) ? -1 : real(fd);
}

int fdatasync(int fd) {
    REAL(fdatasync);
    return due_fd("fdatasync", fd) ? -1 : real(fd);
}

int ftruncate64(int fd, off64_t length) {
    REAL(ftruncate64);
    return due_fd("ftruncate", fd) ? -1 : real(fd, length);
}

int rename(const char *from, const char *to) {
    REAL(rename);
    return due("rename", from) ? -1 : real(from, to);
}

int unlink(const char *path) {
    REAL(unlink);
    return due("unlink", path) ? -1 : real(path);
}

int mkdir(const char *path, mode_t mode) {
    REAL(mkdir);
    return due("mkdir", path) ? -1 : real(path, mode);
}
