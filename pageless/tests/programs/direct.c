/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* The plain calls: every name, positions, iovecs, appends, what is short and what is refused. */
#define _LARGEFILE64_SOURCE
#include "memory.h"

#ifndef RWF_APPEND
#define RWF_APPEND 0x10
#endif

extern ssize_t __read_chk(int, void *, size_t, size_t);
extern ssize_t __pread_chk(int, void *, size_t, off_t, size_t);
extern ssize_t __pread64_chk(int, void *, size_t, off64_t, size_t);

/* As much memory as there is, at most this. */
static size_t some(size_t most)
{
    return memory.len < most ? memory.len : most;
}

static void reads(const char *kind)
{
    int fd = open_direct(0, FILE_BYTES);
    struct iovec iov = { memory.at, BLOCK };
    off_t at = 0;
    (void)kind;
#define READ(call) do { at += BLOCK; fill(memory.at, 9, 0, BLOCK); MOVES(call, BLOCK); expect(#call, memory.at, 1, (size_t)at, BLOCK); } while (0)
    READ(pread(fd, memory.at, BLOCK, at));
    READ(pread64(fd, memory.at, BLOCK, at));
    READ(preadv(fd, &iov, 1, at));
    READ(preadv64(fd, &iov, 1, at));
    READ(preadv2(fd, &iov, 1, at, 0));
    READ(preadv64v2(fd, &iov, 1, at, 0));
    READ(__pread_chk(fd, memory.at, BLOCK, at, memory.len));
    READ(__pread64_chk(fd, memory.at, BLOCK, at, memory.len));
    MUST(lseek(fd, 0, SEEK_CUR) == 0);
    at += BLOCK;
    MUST(lseek(fd, at, SEEK_SET) == at);
    at -= BLOCK;
    READ(read(fd, memory.at, BLOCK));
    READ(readv(fd, &iov, 1));
    READ(preadv2(fd, &iov, 1, -1, 0));
    READ(__read_chk(fd, memory.at, BLOCK, memory.len));
    MUST(lseek(fd, 0, SEEK_CUR) == at + BLOCK);
}

static void writes(const char *kind)
{
    int fd = open_direct(0, FILE_BYTES);
    struct iovec iov = { memory.at, BLOCK };
    off_t at = 0;
    unsigned seed = 20;
    (void)kind;
#define WRITE(call) do { at += BLOCK; fill(memory.at, ++seed, 0, BLOCK); MOVES(call, BLOCK); expect_file(#call, (size_t)at, BLOCK, seed, 0); } while (0)
    WRITE(pwrite(fd, memory.at, BLOCK, at));
    WRITE(pwrite64(fd, memory.at, BLOCK, at));
    WRITE(pwritev(fd, &iov, 1, at));
    WRITE(pwritev64(fd, &iov, 1, at));
    WRITE(pwritev2(fd, &iov, 1, at, 0));
    WRITE(pwritev64v2(fd, &iov, 1, at, 0));
    WRITE(pwritev2(fd, &iov, 1, at, RWF_DSYNC));
    MUST(lseek(fd, 0, SEEK_CUR) == 0);
    at += BLOCK;
    MUST(lseek(fd, at, SEEK_SET) == at);
    at -= BLOCK;
    WRITE(write(fd, memory.at, BLOCK));
    WRITE(writev(fd, &iov, 1));
    WRITE(pwritev2(fd, &iov, 1, -1, 0));
    MUST(lseek(fd, 0, SEEK_CUR) == at + BLOCK);
    expect_file("what nobody wrote", (size_t)at + BLOCK, FILE_BYTES - (size_t)at - BLOCK, 1, (size_t)at + BLOCK);
    MUST(is_block || file_size() == FILE_BYTES);
}

/* More than a slot, from a block offset in the middle, and back. */
static void large(const char *kind)
{
    int fd = open_direct(0, FILE_BYTES);
    size_t len = some(FILE_BYTES - 2 * BLOCK);
    (void)kind;
    MOVES(pread(fd, memory.at, len, BLOCK), (long)len);
    expect("pread", memory.at, 1, BLOCK, len);
    MOVES(read(fd, memory.at, len), (long)len);
    expect("read", memory.at, 1, 0, len);
    MUST(lseek(fd, 0, SEEK_CUR) == (off_t)len);
    fill(memory.at, 2, 0, len);
    MOVES(pwrite(fd, memory.at, len, BLOCK), (long)len);
    expect_file("pwrite", BLOCK, len, 2, 0);
    MUST(lseek(fd, BLOCK, SEEK_SET) == BLOCK);
    fill(memory.at, 3, 0, len);
    MOVES(write(fd, memory.at, len), (long)len);
    expect_file("write", BLOCK, len, 3, 0);
    MUST(lseek(fd, 0, SEEK_CUR) == (off_t)(BLOCK + len));
    expect_file("before it", 0, BLOCK, 1, 0);
}

/* Iovecs of ordinary memory and ours by turns, some empty, none in order. */
static void iovecs(const char *kind)
{
    static unsigned char ordinary[64 * BLOCK] __attribute__((aligned(BLOCK)));
    struct iovec iov[65];
    size_t blocks = some(32 * BLOCK) / BLOCK, total = 0, from = 0;
    int count = 0, fd = open_direct(0, FILE_BYTES);
    (void)kind;
    for (size_t n = blocks; n-- > 0;) {
        iov[count++] = (struct iovec){ ordinary + 2 * n * BLOCK, BLOCK };
        iov[count++] = (struct iovec){ memory.at + n * BLOCK, BLOCK };
    }
    iov[count++] = (struct iovec){ NULL, 0 };
    total = 2 * blocks * BLOCK;
    MOVES(preadv(fd, iov, count, BLOCK), (long)total);
    for (int n = 0; n < count; from += iov[n++].iov_len)
        expect("preadv", iov[n].iov_base, 1, BLOCK + from, iov[n].iov_len);
    from = 0;
    for (int n = 0; n < count; from += iov[n++].iov_len)
        fill(iov[n].iov_base, 5, from, iov[n].iov_len);
    MOVES(pwritev2(fd, iov, count, 2 * BLOCK, 0), (long)total);
    expect_file("pwritev2", 2 * BLOCK, total, 5, 0);
    MOVES(writev(fd, iov, count), (long)total);
    expect_file("writev", 0, total, 5, 0);
    MOVES(readv(fd, iov, count), (long)total);
}

/* As many iovecs as the kernel takes, and one more. */
static void many_iovecs(const char *kind)
{
    static struct iovec iov[IOV_MAX + 1];
    int fd = open_direct(0, FILE_BYTES);
    (void)kind;
    for (size_t n = 0; n <= IOV_MAX; n++)
        iov[n] = (struct iovec){ memory.at + n % (memory.len / 512) * 512, 512 };
    REFUSED(preadv(fd, iov, IOV_MAX + 1, 0), EINVAL);
    MOVES(preadv(fd, iov, IOV_MAX, 0), 512 * IOV_MAX);
    size_t last = IOV_MAX < memory.len / 512 ? 0 : (IOV_MAX / (memory.len / 512) - 1) * (memory.len / 512);
    expect("the first iovec", memory.at, 1, last * 512, 512);
    for (int n = 0; n < IOV_MAX; n++)
        fill(memory.at + n % (memory.len / 512) * 512, 6, (size_t)n % (memory.len / 512) * 512, 512);
    MOVES(pwritev(fd, iov, IOV_MAX, 0), 512 * IOV_MAX);
    expect_file("the first", 0, some(512 * IOV_MAX), 6, 0);
}

/* The end of the file: short counts, and nothing after it. */
static void end_of_file(const char *kind)
{
    if (is_block)
        SKIP("a file that ends inside a block");
    int fd = open_direct(0, 2 * BLOCK + 100);
    (void)kind;
    MUST(memory.len >= BLOCK);
    fill(memory.at, 7, 0, BLOCK);
    MOVES(pread(fd, memory.at, BLOCK, 2 * BLOCK), 100);
    expect("the tail", memory.at, 1, 2 * BLOCK, 100);
    MOVES(pread(fd, memory.at, BLOCK, BLOCK), BLOCK);
    MOVES(pread(fd, memory.at, BLOCK, 64 * BLOCK), 0);
    if (memory.len >= 4 * BLOCK) {
        MUST(lseek(fd, 0, SEEK_SET) == 0);
        MOVES(read(fd, memory.at, 4 * BLOCK), 2 * BLOCK + 100);
        expect("all of it", memory.at, 1, 0, 2 * BLOCK + 100);
        MUST(lseek(fd, 0, SEEK_CUR) == 2 * BLOCK + 100);
        MOVES(read(fd, memory.at, 4 * BLOCK), 0);
    }
}

/* What would have been EINVAL for ordinary memory is EINVAL. */
static void alignment(const char *kind)
{
    static unsigned char ordinary[4 * BLOCK] __attribute__((aligned(BLOCK)));
    int fd = open_direct(0, FILE_BYTES);
    size_t len = some(2 * BLOCK) - 512;
    len -= len % 512;
    (void)kind;
    MOVES(pread(fd, memory.at, BLOCK, 0), BLOCK);
    for (size_t off = 0; off < 512; off += off ? off : 1) {
        struct iovec ours[2] = { { memory.at + off, 512 + off }, { memory.at + 2048, 4096 - 512 - off > 2048 ? 2048 : 512 } };
        struct iovec theirs[2] = { { ordinary + off, ours[0].iov_len }, { ordinary + 2048, ours[1].iov_len } };
        errno = 0;
        long want = pread(fd, ordinary + off, len - 512, 0);
        int why = errno;
        errno = 0;
        long got = pread(fd, memory.at + off, len - 512, 0);
        if (got != want || (got < 0 && errno != why))
            WRONG("at %zu: %ld (%s), ordinary memory %ld (%s)", off, got, strerror(errno), want, strerror(why));
        want = pwritev(fd, theirs, 2, 0);
        why = errno;
        got = pwritev(fd, ours, 2, 0);
        if (got != want || (got < 0 && errno != why))
            WRONG("iovecs at %zu: %ld (%s), ordinary memory %ld (%s)", off, got, strerror(errno), want, strerror(why));
    }
}

/* Bytes are appended once, whatever part the kernel had done before it met our memory. */
static void appends(const char *kind)
{
    size_t before = (1 << 20) + BLOCK, len, size = 0;
    if (is_block)
        SKIP("a file that grows");
    unsigned char *at = mixed(kind, before, &len);
    int fd = open_direct(O_APPEND, 0);
    struct iovec iov[2] = { { at, before }, { at + before, len - before } };
    fill(at, 4, 0, len);
#define APPEND(call, bytes) do { MOVES(call, (long)(bytes)); MUST(file_size() == size + (bytes)); expect_file(#call, size, bytes, 4, 0); size += (bytes); } while (0)
    APPEND(write(fd, at, len), len);
    APPEND(writev(fd, iov, 2), len);
    APPEND(write(fd, at, BLOCK), (size_t)BLOCK);
    MUST(lseek(fd, 0, SEEK_CUR) == (off_t)size);
    /* Linux appends here too: pwrite(2), BUGS */
    APPEND(pwrite(fd, at, len, 0), len);
    MUST(lseek(fd, 0, SEEK_CUR) == (off_t)(size - len));
    close(fd);
    fd = open(file_path, O_RDWR | O_DIRECT);
    APPEND(pwritev2(fd, iov, 2, 0, RWF_APPEND), len);
    MUST(lseek(fd, 0, SEEK_CUR) == 0);
    APPEND(pwritev2(fd, iov, 2, -1, RWF_APPEND), len);
    MUST(lseek(fd, 0, SEEK_CUR) == (off_t)size);
    size_t at_ours = 0;
    for (int n = 0; n < 2; n++, at_ours += len)
        expect_file("what was there before", at_ours, len, 4, 0);
}

/* More than is moved as one: the same memory forty times, appended, and read back from the position. */
static void huge(const char *kind)
{
    enum { TIMES = 40 };
    struct iovec iov[TIMES];
    size_t len = some(2 << 20);
    (void)kind;
    if (is_block)
        SKIP("a file that grows");
    int fd = open_direct(O_APPEND, BLOCK);
    fill(memory.at, 4, 0, len);
    for (int n = 0; n < TIMES; n++)
        iov[n] = (struct iovec){ memory.at, len };
    MOVES(writev(fd, iov, TIMES), (long)(TIMES * len));
    MUST(file_size() == BLOCK + TIMES * len);
    expect_file("before it", 0, BLOCK, 1, 0);
    for (size_t n = 0; n < TIMES; n++)
        expect_file("one of them", BLOCK + n * len, len, 4, 0);
    MUST(lseek(fd, BLOCK, SEEK_SET) == BLOCK);
    fill(memory.at, 5, 0, len);
    MOVES(readv(fd, iov, TIMES), (long)(TIMES * len));
    expect("the last", memory.at, 4, 0, len);
    MUST(lseek(fd, 0, SEEK_CUR) == (off_t)(BLOCK + TIMES * len));
}

/* Two write the same file at once, each append one whole. */
static void appends_together(const char *kind)
{
    enum { EACH = 16 };
    if (is_block)
        SKIP("a file that grows");
    size_t len = memory.len;
    int fd = open_direct(O_APPEND, 0);
    volatile int *ready = mmap(NULL, BLOCK, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    (void)kind;
    pid_t child = fork();
    MUST(child >= 0);
    unsigned seed = child ? 31 : 32;
    if (!child)
        memory = map_memory(kind);
    fill(memory.at, seed, 0, len);
    __atomic_fetch_add(ready, 1, __ATOMIC_SEQ_CST);
    while (*ready < 2)
        usleep(10);
    for (int n = 0; n < EACH; n++)
        MOVES(write(fd, memory.at, len), (long)len);
    if (!child)
        _exit(0);
    int status;
    MUST(waitpid(child, &status, 0) == child && status == 0);
    MUST(file_size() == 2 * EACH * len);
    int other = open(file_path, O_RDONLY), counted[2] = { 0, 0 };
    unsigned char first;
    for (size_t n = 0; n < 2 * EACH; n++) {
        MUST(pread(other, &first, 1, (off_t)(n * len)) == 1);
        int which = first == byte_at(32, 0);
        counted[which]++;
        expect_file("an append", n * len, len, which ? 32 : 31, 0);
    }
    MUST(counted[0] == EACH && counted[1] == EACH);
}

/* Ordinary memory and ours in one buffer, over data that is there: all of it lands, once, in place. */
static void half_done(const char *kind)
{
    size_t before = (1 << 20) + BLOCK, len;
    unsigned char *at = mixed(kind, before, &len);
    int fd = open_direct(0, FILE_BYTES);
    if (len > FILE_BYTES - BLOCK)
        len = FILE_BYTES - BLOCK;
    size_t done = 0;
    fill(at, 8, 0, len);
    /* A short count is an answer; the rest is the program's to write. */
    for (long n; done < len; done += (size_t)n) {
        n = pwrite(fd, at + done, len - done, (off_t)(BLOCK + done));
        if (n <= 0)
            moves("the rest", __LINE__, n, (long)(len - done));
    }
    expect_file("before", 0, BLOCK, 1, 0);
    expect_file("the write", BLOCK, len, 8, 0);
    if (BLOCK + len < FILE_BYTES)
        expect_file("after", BLOCK + len, FILE_BYTES - BLOCK - len, 1, BLOCK + len);
    memset(at, 0, len);
    for (done = 0; done < len; ) {
        long n = pread(fd, at + done, len - done, (off_t)(BLOCK + done));
        if (n <= 0)
            moves("the rest", __LINE__, n, (long)(len - done));
        done += (size_t)n;
    }
    expect("the read", at, 8, 0, len);
}

/* RWF_NOWAIT does not wait for the bounce either, and unknown flags stay refused. */
static void flags(const char *kind)
{
    int fd = open_direct(0, FILE_BYTES);
    struct iovec iov = { memory.at, BLOCK };
    (void)kind;
    REFUSED(preadv2(fd, &iov, 1, 0, 0x40000000), EOPNOTSUPP);
    errno = 0;
    long got = preadv2(fd, &iov, 1, 0, RWF_NOWAIT);
    if (got < 0 && errno == EFAULT)
        exit(3);
    MUST(got == BLOCK || (got == -1 && (errno == EAGAIN || errno == EOPNOTSUPP)));
    MOVES(preadv2(fd, &iov, 1, 0, RWF_HIPRI), BLOCK);
    fill(memory.at, 3, 0, BLOCK);
    MOVES(pwritev2(fd, &iov, 1, 0, RWF_SYNC), BLOCK);
    expect_file("RWF_SYNC", 0, BLOCK, 3, 0);
}

static const struct a_case cases[] = {
    { "reads", reads }, { "writes", writes }, { "large", large }, { "iovecs", iovecs }, { "many_iovecs", many_iovecs },
    { "end_of_file", end_of_file }, { "alignment", alignment }, { "appends", appends },
    { "appends_together", appends_together }, { "huge", huge }, { "half_done", half_done }, { "flags", flags }, { NULL, NULL },
};

int main(int argc, char **argv)
{
    return run_case(cases, argc, argv);
}
