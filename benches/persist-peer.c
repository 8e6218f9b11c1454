/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* The peer of benches/persist.sh: copies with libpmem into a file that pageless has mapped too, and says what it took.
 *
 *     persist-peer FILE    reads "LEN COUNT" lines, answers each with nanoseconds per pmem_memcpy_persist
 *
 * Offsets come from the generator that the other side uses, started at the same seed for every line. */
#include <fcntl.h>
#include <libpmem.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static uint64_t state;

static uint64_t below(uint64_t bound) {
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return state * 0x2545f4914f6cdd1dULL % bound;
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e9 + t.tv_nsec;
}

int main(int argc, char **argv) {
    struct stat st;
    int fd = argc == 2 ? open(argv[1], O_RDWR) : -1;
    if (fd < 0 || fstat(fd, &st)) return perror("persist-peer FILE"), 1;
    char *file = mmap(NULL, st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
    if (file == MAP_FAILED) return perror("mmap"), 1;
    /* so that it does not fall back to msync: PMEM_IS_PMEM_FORCE=1 */
    if (!pmem_is_pmem(file, st.st_size)) return fputs("needs PMEM_IS_PMEM_FORCE=1\n", stderr), 1;
    uint64_t *offsets = malloc((1 << 16) * sizeof *offsets);
    char *source = NULL;
    if (!offsets || posix_memalign((void **)&source, 2 << 20, 2 << 20)) return 1;
    memset(source, 0x5a, 2 << 20);
    size_t len, count;
    while (scanf("%zu %zu", &len, &count) == 2) {
        if (count > 1 << 16 || len > 1 << 20) return 1;
        state = 7;
        for (size_t i = 0; i < count; i++) offsets[i] = below(st.st_size / len) * len;
        double begin = now();
        for (size_t i = 0; i < count; i++) pmem_memcpy_persist(file + offsets[i], source, len);
        printf("%.3f\n", (now() - begin) / count);
        fflush(stdout);
    }
    return 0;
}
