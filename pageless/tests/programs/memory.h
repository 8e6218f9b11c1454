/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Memory that the kernel refuses to pin, a file opened O_DIRECT, and ways to see what came out.
 *
 *   PROGRAM MEMORY FILE CASE
 *
 * MEMORY is `secret` (memfd_secret), `perf` (one page), or the path of something to map shared, such as a BAR's resource2.
 * FILE is made for the case when it is not a block device. Exit code 0: the case held. 3: a call was EFAULT that had to work.
 * 77: not possible here. Anything else: a finding, on stderr.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/perf_event.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef SYS_memfd_secret
#define SYS_memfd_secret 447
#endif

#define FILE_BYTES (3 << 20)
#define BLOCK 4096

struct memory {
    unsigned char *at;
    size_t len;
};

static struct memory memory;
static const char *file_path;
static int is_block;

#define SKIP(...) do { fprintf(stderr, "not possible: " __VA_ARGS__); fputc('\n', stderr); exit(77); } while (0)
#define WRONG(...) do { fprintf(stderr, "%s:%d: ", __FILE__, __LINE__); fprintf(stderr, __VA_ARGS__); fputc('\n', stderr); exit(1); } while (0)

/* The call must move this many bytes. */
#define MOVES(call, bytes) moves(#call, __LINE__, (errno = 0, (long)(call)), (bytes))
/* The call must fail with this errno. */
#define REFUSED(call, error) refused(#call, __LINE__, (errno = 0, (long)(call)), (error))
#define MUST(condition) do { if (!(condition)) WRONG("%s does not hold (%s)", #condition, strerror(errno)); } while (0)

static void moves(const char *call, int line, long got, long want)
{
    if (got == want)
        return;
    fprintf(stderr, "line %d: %s = %ld (%s), not %ld\n", line, call, got, got < 0 ? strerror(errno) : "", want);
    exit(got < 0 && errno == EFAULT ? 3 : 1);
}

static void refused(const char *call, int line, long got, int want)
{
    if (got == -1 && errno == want)
        return;
    fprintf(stderr, "line %d: %s = %ld (%s), not -1 (%s)\n", line, call, got, got < 0 ? strerror(errno) : "", strerror(want));
    exit(1);
}

/* Bytes that say where they belong. */
static unsigned char byte_at(unsigned seed, size_t n)
{
    uint64_t x = (n / 8 + 1) * 0x9e3779b97f4a7c15u + seed * 0x2545f4914f6cdd1du;
    x ^= x >> 29;
    return (unsigned char)(x >> (8 * (n % 8)));
}

static void fill(unsigned char *at, unsigned seed, size_t from, size_t len)
{
    for (size_t n = 0; n < len; n++)
        ((volatile unsigned char *)at)[n] = byte_at(seed, from + n);
}

static void expect(const char *what, const unsigned char *at, unsigned seed, size_t from, size_t len)
{
    for (size_t n = 0; n < len; n++)
        if (((const volatile unsigned char *)at)[n] != byte_at(seed, from + n))
            WRONG("%s: byte %zu of %zu is wrong", what, n, len);
}

/* Whether smaps has `pf` among the flags of the mapping. */
static int is_pfn_map(const void *at)
{
    char line[512], start[32];
    int found = 0, here = 0;
    FILE *smaps = fopen("/proc/self/smaps", "r");
    MUST(smaps);
    snprintf(start, sizeof start, "%lx-", (unsigned long)at);
    while (fgets(line, sizeof line, smaps)) {
        if (!strncmp(line, start, strlen(start)))
            here = 1;
        else if (here && !strncmp(line, "VmFlags:", 8)) {
            found = strstr(line, " pf ") != NULL;
            break;
        }
    }
    fclose(smaps);
    return found;
}

static struct memory map_memory(const char *kind)
{
    struct memory made = { NULL, 2 << 20 };
    int fd;
    if (!strcmp(kind, "secret")) {
        fd = (int)syscall(SYS_memfd_secret, 0);
        if (fd < 0 || ftruncate(fd, (off_t)made.len))
            SKIP("memfd_secret: %s", strerror(errno));
    } else if (!strcmp(kind, "perf")) {
        struct perf_event_attr attr = { .type = PERF_TYPE_SOFTWARE, .size = sizeof attr, .config = PERF_COUNT_SW_DUMMY,
                                        .disabled = 1 }; /* enabled, the kernel would write to the page */
        made.len = 4096;
        fd = (int)syscall(SYS_perf_event_open, &attr, 0, -1, -1, 0);
        if (fd < 0)
            SKIP("perf_event_open: %s", strerror(errno));
    } else {
        struct stat st;
        fd = open(kind, O_RDWR);
        if (fd < 0 || fstat(fd, &st))
            SKIP("%s: %s", kind, strerror(errno));
        if (st.st_size > 0 && (size_t)st.st_size < made.len)
            made.len = (size_t)st.st_size;
    }
    /* With a page on either side that is nobody's. */
    unsigned char *around = mmap(NULL, made.len + 2 * BLOCK, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    MUST(around != MAP_FAILED);
    made.at = mmap(around + BLOCK, made.len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
    if (made.at == MAP_FAILED)
        SKIP("mmap of %s: %s", kind, strerror(errno));
    close(fd);
    if (!strcmp(kind, "perf") && !is_pfn_map(made.at))
        SKIP("the page of a perf event is an ordinary one before Linux 6.14");
    return made;
}

/* Pages right before the memory, ordinary ones, and the memory after them: one buffer of both kinds. */
__attribute__((unused)) static unsigned char *mixed(const char *kind, size_t before, size_t *len)
{
    struct memory made = map_memory(kind);
    unsigned char *at = mmap(NULL, before + made.len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    MUST(at != MAP_FAILED);
    memset(at, 0, before);
    MUST(mremap(made.at, made.len, made.len, MREMAP_MAYMOVE | MREMAP_FIXED, at + before) == at + before);
    *len = before + made.len;
    return at;
}

/* The file with its pattern (seed 1), or empty. */
static int open_direct(int flags, size_t bytes)
{
    static unsigned char buf[1 << 16];
    int fd = open(file_path, O_RDWR | (is_block ? 0 : O_CREAT | O_TRUNC), 0600);
    if (fd < 0)
        WRONG("%s: %s", file_path, strerror(errno));
    for (size_t at = 0; at < bytes; at += sizeof buf) {
        size_t len = bytes - at < sizeof buf ? bytes - at : sizeof buf;
        fill(buf, 1, at, len);
        MUST(pwrite(fd, buf, len, (off_t)at) == (ssize_t)len);
    }
    MUST(fsync(fd) == 0);
    close(fd);
    fd = open(file_path, O_RDWR | O_DIRECT | flags);
    if (fd < 0)
        SKIP("O_DIRECT on %s: %s", file_path, strerror(errno));
    return fd;
}

/* What the file holds, looked at without the calls under test. */
static void expect_file(const char *what, size_t at, size_t len, unsigned seed, size_t from)
{
    int fd = open(file_path, O_RDONLY);
    MUST(fd >= 0);
    unsigned char *seen = mmap(NULL, at + len, PROT_READ, MAP_SHARED, fd, 0);
    MUST(seen != MAP_FAILED);
    expect(what, seen + at, seed, from, len);
    munmap(seen, at + len);
    close(fd);
}

static size_t file_size(void)
{
    struct stat st;
    MUST(stat(file_path, &st) == 0);
    return (size_t)st.st_size;
}

struct a_case {
    const char *name;
    void (*run)(const char *kind);
};

static int run_case(const struct a_case *cases, int argc, char **argv)
{
    if (argc == 2 && !strcmp(argv[1], "--list")) {
        for (; cases->name; cases++)
            puts(cases->name);
        return 0;
    }
    if (argc != 4) {
        fprintf(stderr, "usage: %s MEMORY FILE CASE | --list\n", argv[0]);
        return 2;
    }
    struct stat st;
    file_path = argv[2];
    is_block = stat(file_path, &st) == 0 && S_ISBLK(st.st_mode);
    for (; cases->name; cases++)
        if (!strcmp(cases->name, argv[3])) {
            memory = map_memory(argv[1]);
            cases->run(argv[1]);
            return 0;
        }
    fprintf(stderr, "no case %s\n", argv[3]);
    return 2;
}
