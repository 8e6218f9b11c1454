# SPDX-License-Identifier: MIT OR Apache-2.0
#: about    what the kernel refuses to do with each kind of memory, and that pageless sees it
#: devices  ivshmem nvdimm
#: kernels  6.12 7.3

probe ram:4M is=page-backed cpu_map=ok short_pin=ok long_pin=ok send=ok send_zerocopy=ok
probe secret:4M is=unpinnable cpu_map=ok short_pin=EFAULT long_pin=EFAULT send=ok send_zerocopy=EFAULT

# A BAR has no struct page: the kernel can neither pin it for a moment nor for long.
bar=$(ivshmem_bar)
probe "$bar" is=page-less bytes=16777216 cpu_map=ok short_pin=EFAULT long_pin=EFAULT send=ok send_zerocopy=EFAULT
probe_flag "$bar" pf
probe_flag "$bar" io

# So has a dma-buf, although its memory does.
probe udmabuf:4M is=page-less cpu_map=ok short_pin=EFAULT long_pin=EFAULT send=ok send_zerocopy=EFAULT
probe_flag udmabuf:4M pf

# A DAX file has pages that may be pinned for the time of one I/O, but not for long.
fsdax ext4
dd if=/dev/zero of=/mnt/dax/file bs=1M count=4 2>/dev/null
probe pmem:/mnt/dax/file is=page-backed bytes=4194304 cpu_map=ok short_pin=ok long_pin=EOPNOTSUPP send=ok send_zerocopy=ok
probe_flag pmem:/mnt/dax/file sf
