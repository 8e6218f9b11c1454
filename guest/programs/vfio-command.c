/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * vfio-command PID VALUE: writes the PCI command register of the function that a process drives through VFIO, as that
 * process could. Without its bit 1 the function does not decode memory, and VFIO takes the mappings of its BARs away:
 * the next access is a SIGBUS.
 */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* linux/drivers/vfio/pci: region 7 is the configuration space, a region has 40 bits. */
#define CONFIG_REGION (7ULL << 40)
#define PCI_COMMAND 4

static int vfio_device_of(const char *pid)
{
    char folder[64], path[320], target[64] = "";
    snprintf(folder, sizeof folder, "/proc/%s/fd", pid);
    DIR *fds = opendir(folder);
    for (struct dirent *entry; fds && (entry = readdir(fds));) {
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        ssize_t len = readlink(path, target, sizeof target - 1);
        if (len > 0 && (target[len] = 0, strcmp(target, "anon_inode:[vfio-device]") == 0))
            return atoi(entry->d_name);
    }
    return -1;
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "usage: vfio-command PID VALUE\n");
        return 2;
    }
    int theirs = vfio_device_of(argv[1]);
    if (theirs < 0) {
        fprintf(stderr, "process %s has no VFIO device open\n", argv[1]);
        return 1;
    }
    int process = syscall(SYS_pidfd_open, atoi(argv[1]), 0);
    int device = syscall(SYS_pidfd_getfd, process, theirs, 0);
    uint16_t command = strtoul(argv[2], NULL, 0);
    if (device < 0 || pwrite(device, &command, sizeof command, CONFIG_REGION + PCI_COMMAND) != sizeof command) {
        perror("vfio-command");
        return 1;
    }
    return 0;
}
