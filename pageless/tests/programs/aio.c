/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* libaio: EFAULT arrives in an event, and what the event says afterwards is what was done. Link with -laio. */
#include "memory.h"
#include <libaio.h>

#define DEPTH 32

static io_context_t context;

static void start(void)
{
    int got = io_setup(DEPTH, &context);
    if (got < 0)
        SKIP("io_setup: %s", strerror(-got));
}

/* Submits, and fetches every event with one of the two calls; the result of each, by its iocb. */
static void run(struct iocb **list, long count, long *results)
{
    struct io_event events[DEPTH];
    static int turn;
    MUST(io_submit(context, count, list) == count);
    for (long done = 0; done < count;) {
        struct timespec second = { 10, 0 };
        int got = turn++ % 2 ? io_getevents(context, 1, count - done, events, &second)
                             : io_pgetevents(context, 1, count - done, events, &second, NULL);
        if (got <= 0)
            WRONG("events: %s", strerror(-got));
        for (int n = 0; n < got; n++) {
            long which = 0;
            while (which < count && list[which] != events[n].obj)
                which++;
            MUST(which < count);
            MUST(events[n].data == list[which]->data);
            results[which] = (long)events[n].res;
        }
        done += got;
    }
}

static long one(struct iocb *iocb)
{
    long result;
    run(&iocb, 1, &result);
    /* A block device says EIO of memory it cannot pin when that is more than 256 pages. */
    if (result < 0)
        errno = is_block && result == -EIO && iocb->u.c.nbytes > 1 << 20 ? EFAULT : (int)-result;
    return result < 0 ? -1 : result;
}

static void reads_and_writes(const char *kind)
{
    int fd = open_direct(0, FILE_BYTES);
    struct iovec iov[2] = { { memory.at, 512 }, { memory.at + 512, BLOCK - 512 } };
    struct iocb iocb;
    (void)kind;
    start();
    io_prep_pread(&iocb, fd, memory.at, BLOCK, BLOCK);
    iocb.data = &iov;
    MOVES(one(&iocb), BLOCK);
    expect("pread", memory.at, 1, BLOCK, BLOCK);
    io_prep_preadv(&iocb, fd, iov, 2, 2 * BLOCK);
    MOVES(one(&iocb), BLOCK);
    expect("preadv", memory.at, 1, 2 * BLOCK, BLOCK);
    fill(memory.at, 2, 0, BLOCK);
    io_prep_pwrite(&iocb, fd, memory.at, BLOCK, 3 * BLOCK);
    MOVES(one(&iocb), BLOCK);
    expect_file("pwrite", 3 * BLOCK, BLOCK, 2, 0);
    io_prep_pwritev(&iocb, fd, iov, 2, 5 * BLOCK);
    iocb.aio_rw_flags = RWF_DSYNC;
    MOVES(one(&iocb), BLOCK);
    expect_file("pwritev", 5 * BLOCK, BLOCK, 2, 0);
    expect_file("between", 4 * BLOCK, BLOCK, 1, 4 * BLOCK);
    MUST(lseek(fd, 0, SEEK_CUR) == 0);
}

/* Many at once, ordinary memory among them. */
static void deep(const char *kind)
{
    static unsigned char ordinary[DEPTH * BLOCK] __attribute__((aligned(BLOCK)));
    struct iocb iocbs[DEPTH], *list[DEPTH];
    long results[DEPTH];
    size_t blocks = memory.len / BLOCK;
    int fd = open_direct(0, FILE_BYTES);
    (void)kind;
    start();
    for (size_t n = 0; n < DEPTH; n++) {
        unsigned char *at = n % 2 && n / 2 < blocks ? memory.at + n / 2 * BLOCK : ordinary + n * BLOCK;
        io_prep_pread(list[n] = &iocbs[n], fd, at, BLOCK, (long long)(DEPTH - n) * BLOCK);
    }
    run(list, DEPTH, results);
    for (size_t n = 0; n < DEPTH; n++) {
        errno = results[n] < 0 ? (int)-results[n] : 0;
        moves("a read among many", __LINE__, results[n] < 0 ? -1 : results[n], BLOCK);
        expect("a read among many", iocbs[n].u.c.buf, 1, (DEPTH - n) * BLOCK, BLOCK);
    }
}

static void large(const char *kind)
{
    int fd = open_direct(0, FILE_BYTES);
    struct iocb iocb;
    size_t len = memory.len;
    (void)kind;
    start();
    io_prep_pread(&iocb, fd, memory.at, len, BLOCK);
    MOVES(one(&iocb), (long)len);
    expect("pread", memory.at, 1, BLOCK, len);
    fill(memory.at, 2, 0, len);
    io_prep_pwrite(&iocb, fd, memory.at, len, 2 * BLOCK);
    MOVES(one(&iocb), (long)len);
    expect_file("pwrite", 2 * BLOCK, len, 2, 0);
}

static void appends(const char *kind)
{
    if (is_block)
        SKIP("a file that grows");
    size_t before = (1 << 20) + BLOCK, len;
    unsigned char *at = mixed(kind, before, &len);
    int fd = open_direct(O_APPEND, 0);
    struct iocb iocb;
    start();
    fill(at, 4, 0, len);
    for (size_t n = 0; n < 3; n++) {
        io_prep_pwrite(&iocb, fd, at, len, 0);
        MOVES(one(&iocb), (long)len);
        MUST(file_size() == (n + 1) * len);
        expect_file("an append", n * len, len, 4, 0);
    }
    close(fd);
    fd = open_direct(0, 0);
    for (size_t n = 0; n < 3; n++) {
        io_prep_pwrite(&iocb, fd, at, len, 0);
        iocb.aio_rw_flags = 0x10; /* RWF_APPEND */
        MOVES(one(&iocb), (long)len);
        MUST(file_size() == (n + 1) * len);
    }
}

static void end_of_file(const char *kind)
{
    if (is_block)
        SKIP("a file that ends inside a block");
    int fd = open_direct(0, BLOCK + 100);
    struct iocb iocb;
    (void)kind;
    start();
    io_prep_pread(&iocb, fd, memory.at, BLOCK, BLOCK);
    MOVES(one(&iocb), 100);
    expect("the tail", memory.at, 1, BLOCK, 100);
    io_prep_pread(&iocb, fd, memory.at, BLOCK, 9 * BLOCK);
    MOVES(one(&iocb), 0);
}

/* A pointer that is no memory stays EFAULT, and so does an iocb that is another one by now. */
static void stays_refused(const char *kind)
{
    unsigned char *nothing = mmap(NULL, 2 * BLOCK, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int fd = open_direct(0, FILE_BYTES);
    struct iocb iocb, *list = &iocb;
    struct io_event event;
    (void)kind;
    start();
    io_prep_pread(&iocb, fd, nothing, BLOCK, 0);
    REFUSED(one(&iocb), EFAULT);
    io_prep_pwrite(&iocb, fd, nothing, BLOCK, 0);
    REFUSED(one(&iocb), EFAULT);
    io_prep_pwrite(&iocb, fd, memory.at, BLOCK, 0);
    iocb.data = &event;
    MUST(io_submit(context, 1, &list) == 1);
    iocb.data = &iocb;
    MUST(io_getevents(context, 1, 1, &event, NULL) == 1);
    MUST((long)event.res == -EFAULT);
    /* In memory that is gone when the event is fetched. */
    struct iocb *gone = mmap(NULL, BLOCK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    io_prep_pwrite(gone, fd, memory.at, BLOCK, 0);
    MUST(io_submit(context, 1, &gone) == 1);
    munmap(gone, BLOCK);
    MUST(io_getevents(context, 1, 1, &event, NULL) == 1);
    MUST((long)event.res == -EFAULT);
    expect_file("untouched", 0, FILE_BYTES, 1, 0);
    struct timespec none = { 0, 0 };
    MUST(io_getevents(context, 1, 1, &event, &none) == 0);
}

static const struct a_case cases[] = {
    { "reads_and_writes", reads_and_writes }, { "deep", deep }, { "large", large }, { "appends", appends },
    { "end_of_file", end_of_file }, { "stays_refused", stays_refused }, { NULL, NULL },
};

int main(int argc, char **argv)
{
    return run_case(cases, argc, argv);
}
