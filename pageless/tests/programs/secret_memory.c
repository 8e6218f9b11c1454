/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Preloaded into a program not ours to give it memory that the kernel refuses to pin: what it maps shared from the file
 * SECRET_MEMORY_OF is secret memory of its own (memfd_secret has no name that could be opened).
 */
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SYS_memfd_secret
#define SYS_memfd_secret 447
#endif

void *mmap(void *at, size_t len, int protection, int flags, int fd, off_t offset)
{
    struct stat named, given;
    const char *path = getenv("SECRET_MEMORY_OF");
    if (path && fd >= 0 && (flags & MAP_SHARED) && !fstat(fd, &given) && !stat(path, &named) && given.st_dev == named.st_dev &&
        given.st_ino == named.st_ino) {
        int secret = (int)syscall(SYS_memfd_secret, 0);
        if (secret < 0 || ftruncate(secret, (off_t)len))
            return MAP_FAILED;
        at = (void *)syscall(SYS_mmap, at, len, protection, flags, secret, (off_t)0);
        close(secret);
        return at;
    }
    return (void *)syscall(SYS_mmap, at, len, protection, flags, fd, offset);
}

void *mmap64(void *at, size_t len, int protection, int flags, int fd, off_t offset)
{
    return mmap(at, len, protection, flags, fd, offset);
}
