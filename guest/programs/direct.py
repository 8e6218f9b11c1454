# SPDX-License-Identifier: MIT OR Apache-2.0
"""direct.py KIND: reads and writes a file with O_DIRECT, its buffer in memory of that kind; says what the kernel answers."""

import errno
import fcntl
import mmap
import os
import random
import struct
import sys

SIZE = 1 << 20
DMA_HEAP_IOCTL_ALLOC = 0xC0184800
UDMABUF_CREATE = 0x40187542


def heap():
    heap = os.open("/dev/dma_heap/system", os.O_RDWR)
    asked = struct.pack("QIIQ", SIZE, 0, os.O_RDWR | os.O_CLOEXEC, 0)
    return struct.unpack("QIIQ", fcntl.ioctl(heap, DMA_HEAP_IOCTL_ALLOC, asked))[1]


def udmabuf():
    pages = os.memfd_create("pages", os.MFD_ALLOW_SEALING)
    os.ftruncate(pages, SIZE)
    fcntl.fcntl(pages, 1033, 2)  # F_ADD_SEALS, F_SEAL_SHRINK
    return fcntl.ioctl(os.open("/dev/udmabuf", os.O_RDWR), UDMABUF_CREATE, bytearray(struct.pack("IIQQ", pages, 0, 0, SIZE)))


def buffer(kind):
    """Memory of that kind, as Python has it: an mmap object."""
    name, _, where = kind.partition("=")
    if name == "file":
        return mmap.mmap(os.open(where, os.O_RDWR), SIZE)
    if name == "devmem":
        return mmap.mmap(os.open("/dev/mem", os.O_RDWR), SIZE, offset=int(where, 0))
    return mmap.mmap({"heap": heap, "udmabuf": udmabuf}[name](), SIZE)


def main():
    memory = buffer(sys.argv[1])
    data = random.randbytes(SIZE)
    with open("direct.in", "wb") as file:
        file.write(data)
    try:
        source = os.open("direct.in", os.O_RDONLY | os.O_DIRECT)
        got = os.preadv(source, [memoryview(memory)[: SIZE // 2], memoryview(memory)[SIZE // 2 :]], 0)
        assert (got, memory[:]) == (SIZE, data), "what was read is not what is in the file"
        target = os.open("direct.out", os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_DIRECT)
        assert os.pwritev(target, [memory], 0) == SIZE
    except OSError as error:
        sys.exit(f"{errno.errorcode[error.errno]}: {error.strerror}")
    with open("direct.out", "rb") as file:
        assert file.read() == data, "what was written is not what is in memory"
    print("the same bytes both ways")


main()
