/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* stamps write DISK BLOCK BLOCKS WRITERS FIRST [COUNT]    writes, for ever unless told, and prints `@acked WRITER NUMBER` now and then;
 *                                                         $ACKED is made once that is so
 * stamps check IMAGE BLOCK BLOCKS WRITERS < LOG    LOG: a line `WRITER FIRST ACKED` for each writer of each run before; none is a failure
 * stamps order IMAGE BLOCK BLOCKS WRITERS FIRST    the same, where a write that is there says that those before it were acknowledged
 *
 * Each writer has every WRITERS-th block for itself and numbers its writes from FIRST on; the number says which block. A block is
 * filled with what it is: {number, block} over and over. So whoever finds a block knows whether it is whole, whether it is in its
 * place, and whether it is older than what was acknowledged. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *disk;
static uint64_t block, blocks, writers, first, count = UINT64_MAX;

/* A step of splitmix64: scatters numbers over all blocks of a writer. */
static uint64_t scatter(uint64_t x)
{
    x += 0x9e3779b97f4a7c15;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
    x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
    return x ^ (x >> 31);
}

static uint64_t place(uint64_t writer, uint64_t number)
{
    return scatter(number * writers + writer) % (blocks / writers) * writers + writer;
}

static void *writer(void *argument)
{
    uint64_t me = (uintptr_t)argument;
    uint64_t *bytes = aligned_alloc(4096, block);
    int file = open(disk, O_RDWR | O_DIRECT | O_DSYNC);
    if (bytes == NULL || file < 0) {
        perror(disk);
        exit(1);
    }
    for (uint64_t number = first; number - first < count; number++) {
        uint64_t at = place(me, number);
        for (uint64_t i = 0; i < block / 8; i += 2) {
            bytes[i] = number;
            bytes[i + 1] = at;
        }
        if (pwrite(file, bytes, block, at * block) != (ssize_t)block) {
            perror("write");
            exit(1);
        }
        if (number % 64 == 0) {
            char line[80];
            int len = snprintf(line, sizeof(line), "@acked %llu %llu\n", (unsigned long long)me, (unsigned long long)number);
            if (write(1, line, len) != len)
                exit(1);
            const char *acked = getenv("ACKED");
            if (number == first && acked != NULL)
                close(open(acked, O_WRONLY | O_CREAT, 0600));
        }
    }
    return NULL;
}

/* What each block must at least be: the number of its last write that was acknowledged. */
static uint64_t *least;
static unsigned long long required;

static void acknowledged(uint64_t who, uint64_t from, uint64_t last)
{
    for (uint64_t number = from; number <= last; number++) {
        uint64_t at = place(who, number);
        required += least[at] == 0;
        if (least[at] < number)
            least[at] = number;
    }
}

/* A writer waits for each write, so the last that is there says what was acknowledged. */
static void acknowledged_by_order(FILE *image, uint64_t *bytes)
{
    uint64_t last[64] = { 0 };
    for (uint64_t at = 0; at < blocks && fread(bytes, block, 1, image) == 1; at++)
        if (last[at % writers] < bytes[0])
            last[at % writers] = bytes[0];
    for (uint64_t who = 0; who < writers; who++)
        acknowledged(who, first, last[who]);
    rewind(image);
}

static int check(int by_order)
{
    unsigned long long who, from, last, found = 0, bad = 0;
    uint64_t *bytes = malloc(block);
    FILE *image = fopen(disk, "r");
    least = calloc(blocks, sizeof(*least));
    if (image == NULL || least == NULL || bytes == NULL) {
        perror(disk);
        return 1;
    }
    if (by_order)
        acknowledged_by_order(image, bytes);
    else
        while (scanf("%llu %llu %llu", &who, &from, &last) == 3)
            acknowledged(who, from, last);
    for (uint64_t at = 0; at < blocks; at++) {
        if (fread(bytes, block, 1, image) != 1) {
            fprintf(stderr, "%s ends at block %llu\n", disk, (unsigned long long)at);
            return 1;
        }
        const char *what = NULL;
        for (uint64_t i = 2; i < block / 8; i += 2)
            if (bytes[i] != bytes[0] || bytes[i + 1] != bytes[1])
                what = "is torn";
        int empty = bytes[0] == 0;
        found += !empty;
        if (what == NULL && !empty && (bytes[1] != at || place(at % writers, bytes[0]) != at))
            what = "is another's";
        if (what == NULL && bytes[0] < least[at])
            what = "is older than what was acknowledged";
        if (what != NULL && bad++ < 5)
            fprintf(stderr, "block %llu %s: number %llu, at least %llu\n", (unsigned long long)at, what,
                    (unsigned long long)bytes[0], (unsigned long long)least[at]);
    }
    printf("%llu blocks written, %llu of them acknowledged, %llu bad\n", found, required, bad);
    /* An order may be looked at before the first write. Whoever has a log has waited for one. */
    if (!by_order && required == 0) {
        fprintf(stderr, "nothing was acknowledged, so this says nothing\n");
        return 1;
    }
    return bad != 0;
}

int main(int argc, char **argv)
{
    int checks = argc == 6 && strcmp(argv[1], "check") == 0, orders = argc == 7 && strcmp(argv[1], "order") == 0;
    if (!checks && !orders && (argc < 7 || strcmp(argv[1], "write") != 0)) {
        fprintf(stderr, "usage: stamps write|order DISK BLOCK BLOCKS WRITERS FIRST | check DISK BLOCK BLOCKS WRITERS\n");
        return 2;
    }
    disk = argv[2];
    block = strtoull(argv[3], NULL, 0);
    blocks = strtoull(argv[4], NULL, 0);
    writers = strtoull(argv[5], NULL, 0);
    if (block < 512 || block % 512 != 0 || writers == 0 || writers > 64 || blocks < writers) {
        fprintf(stderr, "stamps: not such a disk\n");
        return 2;
    }
    blocks -= blocks % writers;
    if (!checks)
        first = strtoull(argv[6], NULL, 0);
    if (checks || orders)
        return check(orders);
    if (argc > 7)
        count = strtoull(argv[7], NULL, 0);
    pthread_t threads[64];
    for (uint64_t i = 0; i < writers; i++)
        if (pthread_create(&threads[i], NULL, writer, (void *)(uintptr_t)i) != 0)
            return 1;
    for (uint64_t i = 0; i < writers; i++)
        pthread_join(threads[i], NULL);
    return 0;
}
