/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* physical FILE OFFSET: where on its device the file system keeps that byte of the file, in bytes. */
#include <fcntl.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>

int main(int argc, char **argv)
{
    struct {
        struct fiemap map;
        struct fiemap_extent extent;
    } answer = {0};

    if (argc != 3) {
        fprintf(stderr, "usage: physical FILE OFFSET\n");
        return 2;
    }
    unsigned long long offset = strtoull(argv[2], NULL, 0);
    int fd = open(argv[1], O_RDONLY);
    answer.map.fm_start = offset;
    answer.map.fm_length = 1;
    answer.map.fm_flags = FIEMAP_FLAG_SYNC;
    answer.map.fm_extent_count = 1;
    if (fd < 0 || ioctl(fd, FS_IOC_FIEMAP, &answer) != 0) {
        perror(argv[1]);
        return 1;
    }
    if (answer.map.fm_mapped_extents != 1) {
        fprintf(stderr, "%s: no extent at %llu\n", argv[1], offset);
        return 1;
    }
    printf("%llu\n", (unsigned long long)answer.extent.fe_physical + (offset - answer.extent.fe_logical));
    return 0;
}
