/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* What a program may do at the wrong moment: bad pointers, unmapping, fork, vfork, signals, threads, closing everything. */
#include "memory.h"
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/time.h>

#define ROUNDS 300

/* One block of the file into ours; exits with 3 where it is EFAULT. */
static void read_block(int fd, unsigned char *at, size_t block)
{
    memset(at, 0, BLOCK);
    MOVES(pread(fd, at, BLOCK, (off_t)(block * BLOCK)), BLOCK);
    expect("a block", at, 1, block * BLOCK, BLOCK);
}

static int ends_well(pid_t child)
{
    int status;
    MUST(waitpid(child, &status, 0) == child);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 3)
        exit(3);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

/* Pointers that are no memory are EFAULT, to the last byte, and nothing has happened. */
static void bad_pointers(const char *kind)
{
    unsigned char *half = mmap(NULL, 2 * BLOCK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    unsigned char *constant = mmap(NULL, BLOCK, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    unsigned char *ends = memory.at + memory.len - BLOCK;
    int fd = open_direct(0, FILE_BYTES), plain = open(file_path, O_RDWR);
    unsigned char *volatile nowhere = (unsigned char *)8;
    struct iovec bad[2] = { { half, BLOCK }, { half + BLOCK, BLOCK } };
    (void)kind;
    munmap(half + BLOCK, BLOCK);
    MUST(lseek(fd, BLOCK, SEEK_SET) == BLOCK);
    REFUSED(write(fd, half + BLOCK, BLOCK), EFAULT);
    REFUSED(pwrite(fd, half + BLOCK, BLOCK, 0), EFAULT);
    /* The kernel itself writes the good half of such a buffer before it answers: same bytes, nothing shows. */
    fill(half, 1, BLOCK, BLOCK);
    REFUSED(write(fd, half, 2 * BLOCK), EFAULT);
    REFUSED(pwrite(fd, half, 2 * BLOCK, BLOCK), EFAULT);
    REFUSED(writev(fd, bad, 2), EFAULT);
    /* Ours and then nothing: not a byte. */
    REFUSED(write(fd, ends, 2 * BLOCK), EFAULT);
    REFUSED(pwrite(fd, ends, 2 * BLOCK, 0), EFAULT);
    REFUSED(pwrite(fd, memory.at - BLOCK, 2 * BLOCK, 0), EFAULT);
    REFUSED(pwritev(fd, (struct iovec *)(half + BLOCK), 2, 0), EFAULT);
    REFUSED(read(fd, constant, BLOCK), EFAULT);
    REFUSED(read(fd, half, 2 * BLOCK), EFAULT);
    REFUSED(read(fd, ends, 2 * BLOCK), EFAULT);
    REFUSED(readv(fd, bad, 2), EFAULT);
    REFUSED(preadv(fd, (struct iovec *)nowhere, 2, 0), EFAULT);
    REFUSED(pread(fd, (void *)-BLOCK, BLOCK, 0), EFAULT);
    REFUSED(pread(fd, memory.at, (size_t)1 << 62, 0), EFAULT);
    MUST(lseek(fd, 0, SEEK_CUR) == BLOCK);
    /* Other errors, and other files, are none of our business. */
    REFUSED(read(-1, memory.at, BLOCK), EBADF);
    REFUSED(pread(fd, memory.at, BLOCK, -1), EINVAL);
    REFUSED(pread(plain, half + BLOCK, BLOCK, 0), EFAULT);
    int pipes[2];
    MUST(pipe2(pipes, O_DIRECT) == 0);
    REFUSED(write(pipes[1], half + BLOCK, BLOCK), EFAULT);
    errno = 77;
    MUST(pread(plain, memory.at, BLOCK, 0) == BLOCK && errno == 77);
    expect_file("untouched", 0, FILE_BYTES, 1, 0);
    MUST(is_block || file_size() == FILE_BYTES);
}

/* A wrong pointer at the end of a call that is moved in pieces: as with ordinary memory, nothing is written. */
static void bad_tail(const char *kind)
{
    size_t len = memory.len;
    struct iovec iov[3] = { { memory.at, len }, { memory.at, len }, { memory.at - BLOCK, BLOCK } };
    int fd = open_direct(0, 0);
    (void)kind;
    MUST(!is_block && len >= 2 << 20);
    fill(memory.at, 3, 0, len);
    REFUSED(pwrite(fd, memory.at, len + BLOCK, 0), EFAULT);
    REFUSED(write(fd, memory.at, len + BLOCK), EFAULT);
    REFUSED(pwritev(fd, iov, 3, 0), EFAULT);
    MUST(file_size() == 0);
    MOVES(pwritev(fd, iov, 2, 0), 2 * (long)len);
    REFUSED(pread(fd, memory.at, len + BLOCK, 0), EFAULT);
    REFUSED(preadv(fd, iov + 1, 2, 0), EFAULT);
    expect_file("what was written", len, len, 3, 0);
}

/* Past this limit a write is a signal, and the slots are a file as well. */
static void small_file_limit(const char *kind)
{
    int fd = open_direct(0, FILE_BYTES);
    struct iovec iov = { memory.at, BLOCK };
    struct rlimit limit = { 1 << 20, RLIM_INFINITY };
    (void)kind;
    MUST(setrlimit(RLIMIT_FSIZE, &limit) == 0);
    read_block(fd, memory.at, 1);
    MOVES(preadv(fd, &iov, 1, 0), BLOCK);
    pid_t child = fork();
    if (child == 0) {
        /* No pool can be made, but a slot. */
        read_block(fd, memory.at, 2);
        _exit(0);
    }
    MUST(ends_well(child));
    for (rlim_t n = 0; n < 4; n++) {
        limit.rlim_cur = n * 512;
        MUST(setrlimit(RLIMIT_FSIZE, &limit) == 0);
        REFUSED(pread(fd, memory.at, BLOCK, 0), EFAULT);
        REFUSED(preadv(fd, &iov, 1, 0), EFAULT);
    }
}

static int count_lines(const char *path, const char *with)
{
    char line[512];
    int count = 0;
    FILE *file = fopen(path, "r");
    MUST(file);
    while (fgets(line, sizeof line, file))
        count += strstr(line, with) != NULL;
    fclose(file);
    return count;
}

static int count_files(void)
{
    int count = 0;
    for (int fd = 0; fd < 2048; fd++)
        count += fcntl(fd, F_GETFD) >= 0;
    return count;
}

/* Children in the parent's memory that close what they did not open leave nothing behind there. */
static void vforks_that_close(const char *kind)
{
    static volatile int n, fd;
    (void)kind;
    fd = open_direct(0, FILE_BYTES);
    MUST(dup2(fd, 3) == 3);
    read_block(3, memory.at, 1);
    int files = count_files(), maps = count_lines("/proc/self/maps", "pageless-slots");
    for (n = 0; n < 20; n++) {
        pid_t child = vfork();
        if (child == 0) {
            syscall(SYS_close_range, 4, ~0U, 0);
            _exit(pread(3, memory.at, BLOCK, 0) == BLOCK ? 0 : 1);
        }
        MUST(child > 0 && ends_well(child));
        read_block(3, memory.at, 1);
    }
    MUST(count_files() == files);
    MUST(count_lines("/proc/self/maps", "pageless-slots") == maps);
}

/* A child of a child of a child has as many descriptors as the first. */
static void chain_of_forks(const char *kind)
{
    int fd = open_direct(0, FILE_BYTES), files = 0;
    for (int n = 0; n < 20; n++) {
        read_block(fd, memory.at, 1);
        if (n == 0)
            files = count_files();
        MUST(count_files() == files);
        pid_t child = fork();
        if (child)
            exit(ends_well(child) ? 0 : 1);
        munmap(memory.at, memory.len);
        memory = map_memory(kind);
    }
    exit(0);
}

static sigjmp_buf jump;
static volatile int in_call, jumps;

static void jumps_out(int number)
{
    (void)number;
    if (in_call)
        siglongjmp(jump, 1);
}

/* A handler that never comes back does not keep a slot. */
static void handlers_that_jump(const char *kind)
{
    static volatile int fd, rounds;
    struct itimerval often = { { 0, 300 }, { 0, 300 } };
    (void)kind;
    fd = open_direct(0, FILE_BYTES);
    read_block(fd, memory.at, 1);
    int files = count_files(), maps = count_lines("/proc/self/maps", "pageless-slots");
    signal(SIGALRM, jumps_out);
    setitimer(ITIMER_REAL, &often, NULL);
    for (rounds = 0; jumps < ROUNDS && rounds < 1000 * ROUNDS; rounds++) {
        if (sigsetjmp(jump, 1)) {
            in_call = 0;
            jumps++;
            continue;
        }
        in_call = 1;
        MOVES(pread(fd, memory.at, 1 << 20, 0), 1 << 20);
        in_call = 0;
    }
    setitimer(ITIMER_REAL, &(struct itimerval){ 0 }, NULL);
    MUST(jumps == ROUNDS);
    MUST(count_files() == files && count_lines("/proc/self/maps", "pageless-slots") == maps);
}

static unsigned char *shared_target;
static volatile int stop;

static void *unmaps(void *kind)
{
    (void)kind;
    while (!stop) {
        MUST(mmap(shared_target, BLOCK, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == shared_target);
        MUST(mremap(memory.at, 0, BLOCK, MREMAP_MAYMOVE | MREMAP_FIXED, shared_target) == shared_target);
        usleep(50);
    }
    return NULL;
}

/* Another thread takes the buffer away and puts it back: every call is its data or EFAULT. */
static void unmapped(const char *kind)
{
    unsigned good = 0, refused = 0, wrote = 0;
    int fd = open_direct(0, FILE_BYTES);
    pthread_t other;
    (void)kind;
    shared_target = mmap(NULL, BLOCK, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    MUST(pthread_create(&other, NULL, unmaps, NULL) == 0);
    while (good + refused < 20 * ROUNDS || ((good < 10 || !refused || !wrote) && good + refused < 100 * ROUNDS)) {
        struct iovec iov[2] = { { shared_target, BLOCK / 2 }, { shared_target + BLOCK / 2, BLOCK / 2 } };
        fill(memory.at, 9, 0, BLOCK); /* the same page, by the address that stays */
        errno = 0;
        long got = good % 2 ? pread(fd, shared_target, BLOCK, 0) : preadv(fd, iov, 2, 0);
        if (got == BLOCK) {
            expect("a read that went well", memory.at, 1, 0, BLOCK);
            good++;
        } else if (got == -1 && errno == EFAULT)
            refused++;
        else
            WRONG("read = %ld (%s)", got, strerror(errno));
        fill(memory.at, 2, 0, BLOCK);
        got = pwrite(fd, shared_target, BLOCK, 8 * BLOCK);
        MUST(got == BLOCK || (got == -1 && errno == EFAULT));
        wrote += got == BLOCK;
    }
    stop = 1;
    pthread_join(other, NULL);
    if (!good)
        exit(3);
    MUST(refused && wrote);
    expect_file("what writes left", 8 * BLOCK, BLOCK, 2, 0);
    fprintf(stderr, "%u read, %u EFAULT\n", good, refused);
}

/* Parent and children read different blocks at once; a slot that two had would show. */
static void forks(const char *kind)
{
    int fd = open_direct(0, FILE_BYTES);
    read_block(fd, memory.at, 1);
    pid_t children[4];
    for (size_t c = 0; c < 4; c++) {
        children[c] = fork();
        MUST(children[c] >= 0);
        if (children[c])
            continue;
        memory = map_memory(kind);
        for (size_t n = 0; n < ROUNDS; n++)
            read_block(fd, memory.at, 100 * c + n % 97);
        _exit(0);
    }
    for (size_t n = 0; n < ROUNDS; n++)
        read_block(fd, memory.at, 600 + n % 97);
    for (size_t c = 0; c < 4; c++)
        MUST(ends_well(children[c]));
    read_block(fd, memory.at, 2);
}

static int vfork_file;
static unsigned char *vfork_target;

static void *vforks_in_a_thread(void *arg)
{
    for (volatile size_t n = 0; n < ROUNDS / 4; n++) {
        pid_t child = vfork();
        if (child == 0)
            /* Not what POSIX allows, but what programs do. */
            _exit(pread(vfork_file, vfork_target, BLOCK, (off_t)(n % 97 * BLOCK)) == BLOCK ? 0 : errno == EFAULT ? 3 : 1);
        MUST(child > 0 && ends_well(child));
        expect("the child's block", vfork_target, 1, n % 97 * BLOCK, BLOCK);
    }
    return arg;
}

static void vforks(const char *kind)
{
    pthread_t other;
    (void)kind;
    MUST(memory.len >= 2 * BLOCK);
    vfork_file = open_direct(0, FILE_BYTES);
    vfork_target = memory.at + BLOCK;
    MUST(pthread_create(&other, NULL, vforks_in_a_thread, NULL) == 0);
    for (size_t n = 0; n < ROUNDS; n++)
        read_block(vfork_file, memory.at, 200 + n % 97);
    pthread_join(other, NULL);
}

static unsigned char *signal_target;
static volatile sig_atomic_t signals, fork_in_handler;

/* Once, and again when the handler ends: where forking takes longer than the period nothing else would ever run. */
static void signal_soon(void)
{
    setitimer(ITIMER_REAL, &(struct itimerval){ .it_value = { 0, 300 } }, NULL);
}

static void on_signal(int number)
{
    int saved = errno;
    (void)number;
    if (fork_in_handler) {
        pid_t child = fork();
        if (child == 0) {
            /* This one goes on with what the signal interrupted. */
            fork_in_handler = 0;
            stop = 2;
        } else if (child > 0) {
            int status;
            if (waitpid(child, &status, 0) != child)
                WRONG("no child: %s", strerror(errno));
            /* Forked after its read was refused, and before that was looked at: this one was refused as well. */
            if (WIFEXITED(status) && WEXITSTATUS(status) == 3)
                _exit(3);
            if (status != 0)
                WRONG("the child ended with status %#x", status);
            signals++;
        }
    } else {
        if (pread(vfork_file, signal_target, BLOCK, 5 * BLOCK) != BLOCK)
            _exit(errno == EFAULT ? 3 : 1);
        signals++;
    }
    if (stop != 2)
        signal_soon();
    errno = saved;
}

static void with_signals(void)
{
    struct sigaction action = { .sa_handler = on_signal, .sa_flags = SA_RESTART };
    sigaction(SIGALRM, &action, NULL);
    signal_soon();
    for (size_t n = 0; signals < ROUNDS; n++) {
        memset(memory.at, 0, BLOCK);
        errno = 0;
        long got = pread(vfork_file, memory.at, BLOCK, (off_t)(n % 97 * BLOCK));
        if (stop == 2)
            /* A child that came back here has the data or EFAULT, and no crash. */
            _exit(got == BLOCK || (got == -1 && errno == EFAULT) ? 0 : 1);
        moves("pread", __LINE__, got, BLOCK);
        /* A child that came back shares the memory, and has read into it: also before the next child came back here. */
        if (!fork_in_handler && stop != 2)
            expect("under signals", memory.at, 1, n % 97 * BLOCK, BLOCK);
    }
    setitimer(ITIMER_REAL, &(struct itimerval){ 0 }, NULL);
}

static void in_signal_handlers(const char *kind)
{
    (void)kind;
    MUST(memory.len >= 2 * BLOCK);
    vfork_file = open_direct(0, FILE_BYTES);
    signal_target = memory.at + BLOCK;
    with_signals();
    expect("the handler's block", signal_target, 1, 5 * BLOCK, BLOCK);
}

static void forks_in_signal_handlers(const char *kind)
{
    (void)kind;
    vfork_file = open_direct(0, FILE_BYTES);
    fork_in_handler = 1;
    with_signals();
    for (size_t n = 0; n < ROUNDS; n++)
        read_block(vfork_file, memory.at, n % 97);
}

static void *reads_alone(void *arg)
{
    size_t mine = (size_t)arg;
    for (size_t n = 0; n < ROUNDS / 3; n++)
        read_block(vfork_file, memory.at + mine * BLOCK, (mine * 7 + n) % 700);
    return NULL;
}

/* More threads than slots. */
static void threads(const char *kind)
{
    enum { MOST = 48 };
    pthread_t list[MOST];
    size_t count = memory.len / BLOCK < MOST ? memory.len / BLOCK : MOST;
    (void)kind;
    vfork_file = open_direct(0, FILE_BYTES);
    for (size_t n = 0; n < count; n++)
        MUST(pthread_create(&list[n], NULL, reads_alone, (void *)n) == 0);
    for (size_t n = 0; n < count; n++)
        pthread_join(list[n], NULL);
}

/* A daemon closes what it did not open, and its own files get those numbers. */
static void closes_everything(const char *kind)
{
    int fd = open_direct(0, FILE_BYTES);
    (void)kind;
    read_block(fd, memory.at, 1);
    MUST(dup2(fd, 3) == 3);
    for (int n = 4; n < 2048; n++)
        close(n);
    char name[PATH_MAX];
    snprintf(name, sizeof name, "%s.other", file_path);
    int first = open(name, O_RDWR | O_CREAT | O_TRUNC, 0600);
    MUST(first >= 0);
    unlink(name);
    for (int n = 4; n < 1024; n++)
        if (n != first)
            dup2(first, n);
    read_block(3, memory.at, 2);
    fill(memory.at, 6, 0, BLOCK);
    MOVES(pwrite(3, memory.at, BLOCK, 0), BLOCK);
    expect_file("the write", 0, BLOCK, 6, 0);
    struct stat st;
    MUST(fstat(first, &st) == 0 && st.st_size == 0);
    for (int n = 4; n < 2048; n++)
        close(n);
    /* Nothing to be had any more: the kernel's answer stands. */
    struct rlimit none = { 4, 4 };
    MUST(setrlimit(RLIMIT_NOFILE, &none) == 0);
    REFUSED(pread(3, memory.at, BLOCK, 0), EFAULT);
}

static void *blocks(void *fd)
{
    char byte;
    while (read((int)(intptr_t)fd, &byte, 1) >= 0)
        ;
    return NULL;
}

/* read is still a cancellation point. */
static void cancelled(const char *kind)
{
    int pipes[2];
    pthread_t other;
    void *result;
    (void)kind;
    MUST(pipe(pipes) == 0);
    MUST(pthread_create(&other, NULL, blocks, (void *)(intptr_t)pipes[0]) == 0);
    usleep(20000);
    MUST(pthread_cancel(other) == 0);
    MUST(pthread_join(other, &result) == 0 && result == PTHREAD_CANCELED);
}

static const struct a_case cases[] = {
    { "bad_pointers", bad_pointers }, { "bad_tail", bad_tail }, { "small_file_limit", small_file_limit },
    { "vforks_that_close", vforks_that_close }, { "chain_of_forks", chain_of_forks },
    { "handlers_that_jump", handlers_that_jump }, { "unmapped", unmapped }, { "forks", forks }, { "vforks", vforks },
    { "in_signal_handlers", in_signal_handlers }, { "forks_in_signal_handlers", forks_in_signal_handlers },
    { "threads", threads }, { "closes_everything", closes_everything }, { "cancelled", cancelled }, { NULL, NULL },
};

int main(int argc, char **argv)
{
    return run_case(cases, argc, argv);
}
