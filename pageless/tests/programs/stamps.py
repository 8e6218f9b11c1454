# SPDX-License-Identifier: MIT OR Apache-2.0
# stamps.py URI BLOCK WRITER WRITERS FIRST: writes blocks of its share of the disk for ever, with libnbd, and says on stdout which
# writes were acknowledged: `NUMBER BLOCK`. A block holds both numbers over and over.
import random
import struct
import sys

import nbd

uri, block, writer, writers, number = sys.argv[1], *map(int, sys.argv[2:])
handle = nbd.NBD()
handle.connect_uri(uri)
mine = handle.get_size() // block // writers
dice = random.Random(number * writers + writer)
while True:
    at = dice.randrange(mine) * writers + writer
    stamp = struct.pack("<QQ", number, at) * (block // 16)
    print(number, at, "sent", flush=True)
    try:
        handle.pwrite(stamp, at * block)
    except nbd.Error:
        break
    print(number, at, "done", flush=True)
    number += 1
