/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* pmemblk POOL put < RECORDS   writes blocks with libpmemblk; a record is the block's number (8 bytes, native) and its bytes
 * pmemblk POOL get > BLOCKS    reads all of them in order */
#include <errno.h>
#include <libpmemblk.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int refuse(const char *what)
{
    fprintf(stderr, "%s: %s\n", what, pmemblk_errormsg());
    return 1;
}

int main(int argc, char **argv)
{
    if (argc != 3 || (strcmp(argv[2], "put") != 0 && strcmp(argv[2], "get") != 0)) {
        fprintf(stderr, "usage: pmemblk POOL put|get\n");
        return 2;
    }
    PMEMblkpool *pool = pmemblk_open(argv[1], 0);
    if (pool == NULL)
        return refuse(argv[1]);
    size_t size = pmemblk_bsize(pool), blocks = pmemblk_nblock(pool);
    char *block = malloc(size);
    if (block == NULL)
        return 1;
    if (argv[2][0] == 'g') {
        for (size_t at = 0; at < blocks; at++) {
            if (pmemblk_read(pool, block, at) != 0)
                return refuse("read");
            if (fwrite(block, size, 1, stdout) != 1)
                return 1;
        }
    } else {
        unsigned long long at;
        while (fread(&at, sizeof(at), 1, stdin) == 1) {
            if (fread(block, size, 1, stdin) != 1)
                return 1;
            if (pmemblk_write(pool, block, at) != 0)
                return refuse("write");
        }
    }
    pmemblk_close(pool);
    return fflush(stdout) != 0;
}
