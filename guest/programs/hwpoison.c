/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* hwpoison FILE OFFSET: has the kernel treat the page behind that byte as memory that went bad. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef MADV_HWPOISON
#define MADV_HWPOISON 100
#endif

/* The kernel may tell the process that asked at once: then it is done. */
static void told(int signal)
{
    (void)signal;
    _exit(0);
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "usage: hwpoison FILE OFFSET\n");
        return 2;
    }
    int fd = open(argv[1], O_RDWR);
    char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, strtoull(argv[2], NULL, 0));
    if (fd < 0 || page == MAP_FAILED) {
        perror(argv[1]);
        return 1;
    }
    signal(SIGBUS, told);
    *(volatile char *)page;
    if (madvise(page, 4096, MADV_HWPOISON) != 0) {
        perror("MADV_HWPOISON");
        return 1;
    }
    return 0;
}
