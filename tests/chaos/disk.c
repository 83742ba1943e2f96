/* A disk that can be read back: loaded with LD_PRELOAD, it records what a process does to the
 * files in one folder, in order, and when it asked for them to be synced. ``disk.py`` builds it,
 * explains it, and makes of the record what a loss of power would have left.
 *
 * A sync is recorded when it begins and when it ends, and not done: what a kill leaves in the
 * kernel's cache stays there, and the record says what a power loss would leave.
 *
 * The switches, a small file that the test and the process both map, make the disk full (only so
 * many bytes may be added to files) or let syncs fail.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { WRITE = 1, TRUNCATE, SYNC_BEGIN, SYNC_END, CREATE, UNLINK, RENAME, SYNC_FAIL };
enum { FILES_MAX = 65536, PATH_BYTES_MAX = 256 };

struct head {
    uint32_t kind;
    uint32_t path_bytes;
    int64_t offset;
    int64_t data_bytes;
};

struct switches {
    volatile int64_t free_bytes; /* -1: as many as there are */
    volatile int64_t syncs_fail; /* so many of the next syncs fail */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char folder[PATH_BYTES_MAX];
static size_t folder_bytes;
static int journal = -1;
static struct switches none = {-1, 0};
static struct switches *given = &none;
static uint64_t chance = 88172645463325252ull;
static int64_t sync_us_max;
static char (*names)[PATH_BYTES_MAX]; /* of the file that a descriptor is of, "" if not ours */

static int (*real_open)(const char *, int, ...);
static ssize_t (*real_write)(int, const void *, size_t);
static ssize_t (*real_pwrite)(int, const void *, size_t, off64_t);
static int (*real_ftruncate)(int, off64_t);
static int (*real_truncate)(const char *, off64_t);
static int (*real_fallocate)(int, off64_t, off64_t);
static int (*real_fsync)(int);
static int (*real_unlink)(const char *);
static int (*real_rename)(const char *, const char *);
static int (*real_close)(int);
static int (*real_statvfs)(const char *, struct statvfs64 *);

static void begin(void) __attribute__((constructor));

static void begin(void) {
    if (real_open) return;
    real_write = dlsym(RTLD_NEXT, "write");
    real_pwrite = dlsym(RTLD_NEXT, "pwrite64");
    real_ftruncate = dlsym(RTLD_NEXT, "ftruncate64");
    real_truncate = dlsym(RTLD_NEXT, "truncate64");
    real_fallocate = dlsym(RTLD_NEXT, "posix_fallocate64");
    real_fsync = dlsym(RTLD_NEXT, "fsync");
    real_unlink = dlsym(RTLD_NEXT, "unlink");
    real_rename = dlsym(RTLD_NEXT, "rename");
    real_close = dlsym(RTLD_NEXT, "close");
    real_statvfs = dlsym(RTLD_NEXT, "statvfs64");
    real_open = dlsym(RTLD_NEXT, "open64");
    names = mmap(NULL, sizeof *names * FILES_MAX, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    const char *where = getenv("CHAOS_DISK_FOLDER");
    const char *record = getenv("CHAOS_DISK_RECORD");
    const char *control = getenv("CHAOS_DISK_SWITCHES");
    const char *seed = getenv("CHAOS_DISK_SEED");
    const char *pause = getenv("CHAOS_DISK_SYNC_US");
    if (!where || !record || strlen(where) + 1 >= sizeof folder) return;
    snprintf(folder, sizeof folder, "%s", where);
    folder_bytes = strlen(folder);
    journal = real_open(record, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (seed) chance ^= strtoull(seed, NULL, 10) * 0x9E3779B97F4A7C15ull;
    if (pause) sync_us_max = atoll(pause);
    int file = control ? real_open(control, O_RDWR | O_CLOEXEC) : -1;
    if (file >= 0) {
        void *mapped = mmap(NULL, sizeof none, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        if (mapped != MAP_FAILED) given = mapped;
        real_close(file);
    }
}

/* The path below the folder ("." for the folder itself), or NULL if it lies elsewhere. */
static const char *ours(const char *path) {
    if (journal < 0 || !path || strncmp(path, folder, folder_bytes)) return NULL;
    if (path[folder_bytes] == 0) return ".";
    if (path[folder_bytes] != '/') return NULL;
    return strlen(path + folder_bytes) < PATH_BYTES_MAX ? path + folder_bytes + 1 : NULL;
}

static const char *named(int file) {
    if (journal < 0 || file < 0 || file >= FILES_MAX || !names[file][0]) return NULL;
    return names[file];
}

static void record(int kind, const char *path, int64_t offset, const void *data, int64_t bytes) {
    struct head head = {kind, strlen(path), offset, data ? bytes : 0};
    struct iovec parts[3] = {
        {&head, sizeof head}, {(void *)path, head.path_bytes}, {(void *)data, head.data_bytes}};
    int saved = errno;
    /* One call, so that a kill tears the last record at most. */
    if (writev(journal, parts, data ? 3 : 2) < 0) _exit(97);
    errno = saved;
}

/* Take from, or give to, what is free; say whether there was enough. */
static int grow(int64_t bytes) {
    if (given->free_bytes < 0) return 1;
    if (bytes > given->free_bytes) return 0;
    given->free_bytes -= bytes;
    return 1;
}

static int64_t size_of(int file) {
    struct stat64 stat;
    return fstat64(file, &stat) ? 0 : stat.st_size;
}

static int opened(const char *path, int flags, mode_t mode) {
    begin();
    const char *name = ours(path);
    if (!name) {
        int file = real_open(path, flags, mode);
        if (file >= 0 && file < FILES_MAX && names) names[file][0] = 0;
        return file;
    }
    pthread_mutex_lock(&lock);
    int is_new = (flags & O_CREAT) && access(path, F_OK);
    int file = real_open(path, flags, mode);
    if (file >= 0 && file < FILES_MAX) {
        strcpy(names[file], name);
        if (is_new) record(CREATE, name, 0, NULL, 0);
        else if (flags & O_TRUNC) record(TRUNCATE, name, 0, NULL, 0);
    }
    pthread_mutex_unlock(&lock);
    return file;
}

#define OPEN(NAME)                                                                                 \
    int NAME(const char *path, int flags, ...) {                                                   \
        mode_t mode = 0;                                                                           \
        if (flags & (O_CREAT | O_TMPFILE)) {                                                       \
            va_list rest;                                                                          \
            va_start(rest, flags);                                                                 \
            mode = va_arg(rest, mode_t);                                                           \
            va_end(rest);                                                                          \
        }                                                                                          \
        return opened(path, flags, mode);                                                          \
    }

OPEN(open)
OPEN(open64)
int __open_2(const char *path, int flags) { return opened(path, flags, 0); }
int __open64_2(const char *path, int flags) { return opened(path, flags, 0); }

int close(int file) {
    begin();
    if (file >= 0 && file < FILES_MAX && names) names[file][0] = 0;
    return real_close(file);
}

static ssize_t written(int file, const char *name, const void *data, size_t bytes, off64_t at) {
    pthread_mutex_lock(&lock);
    off64_t from = at;
    if (at < 0) {
        int flags = fcntl(file, F_GETFL);
        from = flags & O_APPEND ? size_of(file) : lseek64(file, 0, SEEK_CUR);
    }
    int64_t more = from + (int64_t)bytes - size_of(file);
    ssize_t done = -1;
    if (more > 0 && !grow(more)) errno = ENOSPC;
    else done = at < 0 ? real_write(file, data, bytes) : real_pwrite(file, data, bytes, at);
    if (done > 0) record(WRITE, name, from, data, done);
    pthread_mutex_unlock(&lock);
    return done;
}

ssize_t write(int file, const void *data, size_t bytes) {
    begin();
    const char *name = named(file);
    return name ? written(file, name, data, bytes, -1) : real_write(file, data, bytes);
}

ssize_t pwrite64(int file, const void *data, size_t bytes, off64_t at) {
    begin();
    const char *name = named(file);
    return name ? written(file, name, data, bytes, at) : real_pwrite(file, data, bytes, at);
}

ssize_t pwrite(int file, const void *data, size_t bytes, off_t at) {
    return pwrite64(file, data, bytes, at);
}

static int resized(int file, const char *name, off64_t size) {
    int64_t more = size - size_of(file);
    if (!grow(more)) {
        errno = ENOSPC;
        return -1;
    }
    int done = real_ftruncate(file, size);
    if (!done) record(TRUNCATE, name, size, NULL, 0);
    return done;
}

int ftruncate64(int file, off64_t size) {
    begin();
    const char *name = named(file);
    if (!name) return real_ftruncate(file, size);
    pthread_mutex_lock(&lock);
    int done = resized(file, name, size);
    pthread_mutex_unlock(&lock);
    return done;
}

int ftruncate(int file, off_t size) { return ftruncate64(file, size); }

int truncate64(const char *path, off64_t size) {
    begin();
    const char *name = ours(path);
    if (!name) return real_truncate(path, size);
    pthread_mutex_lock(&lock);
    int file = real_open(path, O_WRONLY | O_CLOEXEC);
    int done = file < 0 ? -1 : resized(file, name, size);
    int saved = errno;
    if (file >= 0) real_close(file);
    errno = saved;
    pthread_mutex_unlock(&lock);
    return done;
}

int truncate(const char *path, off_t size) { return truncate64(path, size); }

int posix_fallocate64(int file, off64_t from, off64_t bytes) {
    begin();
    const char *name = named(file);
    if (!name) return real_fallocate(file, from, bytes);
    pthread_mutex_lock(&lock);
    int64_t size = size_of(file);
    int done = ENOSPC;
    if (from + bytes <= size) done = 0;
    else if (grow(from + bytes - size)) {
        done = real_fallocate(file, from, bytes);
        if (!done) record(TRUNCATE, name, from + bytes, NULL, 0);
    }
    pthread_mutex_unlock(&lock);
    return done;
}

int posix_fallocate(int file, off_t from, off_t bytes) {
    return posix_fallocate64(file, from, bytes);
}

int statvfs64(const char *path, struct statvfs64 *found) {
    begin();
    int done = real_statvfs(path, found);
    if (!done && ours(path) && given->free_bytes >= 0)
        found->f_bavail = found->f_bfree = given->free_bytes / found->f_frsize;
    return done;
}

int statvfs(const char *path, struct statvfs *found) {
    return statvfs64(path, (struct statvfs64 *)found);
}

static int synced(int file) {
    const char *name = named(file);
    if (!name) return real_fsync(file);
    pthread_mutex_lock(&lock);
    record(SYNC_BEGIN, name, file, NULL, 0);
    chance ^= chance << 13, chance ^= chance >> 7, chance ^= chance << 17;
    int64_t us = sync_us_max > 0 ? (int64_t)(chance % (uint64_t)sync_us_max) : 0;
    int fails = given->syncs_fail > 0;
    if (fails) given->syncs_fail--;
    pthread_mutex_unlock(&lock);
    if (us) usleep(us);
    pthread_mutex_lock(&lock);
    record(fails ? SYNC_FAIL : SYNC_END, name, file, NULL, 0);
    pthread_mutex_unlock(&lock);
    if (!fails) return 0;
    errno = EIO;
    return -1;
}

int fsync(int file) {
    begin();
    return synced(file);
}

int fdatasync(int file) {
    begin();
    return synced(file);
}

int unlink(const char *path) {
    begin();
    const char *name = ours(path);
    if (!name) return real_unlink(path);
    pthread_mutex_lock(&lock);
    struct stat64 stat;
    int64_t size = stat64(path, &stat) ? 0 : stat.st_size;
    int done = real_unlink(path);
    if (!done) {
        grow(-size);
        record(UNLINK, name, 0, NULL, 0);
    }
    pthread_mutex_unlock(&lock);
    return done;
}

int rename(const char *from, const char *to) {
    begin();
    const char *name = ours(from), *target = ours(to);
    if (!name || !target) return real_rename(from, to);
    pthread_mutex_lock(&lock);
    int done = real_rename(from, to);
    if (!done) record(RENAME, name, 0, target, strlen(target));
    pthread_mutex_unlock(&lock);
    return done;
}
