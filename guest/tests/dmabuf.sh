# SPDX-License-Identifier: MIT OR Apache-2.0
#: about    a dma-buf of the system heap: page-less when mapped, bounced, served
#: programs nbdcopy qemu-io strace
#: kernels  6.12 7.3

random_file data 8
check "the kernel has a system heap" ls /dev/dma_heap/system
probe heap:8M is=page-less bytes=8388608 cpu_map=ok short_pin=EFAULT long_pin=EFAULT send=ok send_zerocopy=EFAULT
probe_flag heap:8M pf
check_says "copy a file into it" '"bounce":8388608.*"verified":true' pageless copy file:data heap:8M --verify --json
check_says "the reason is named" "page-less \(O_DIRECT: EFAULT\), bounced" pageless copy file:data heap:8M
check_says "every CPU window on it is announced to the exporter" "DMA_BUF_IOCTL_SYNC" \
    strace -f -e trace=ioctl pageless copy file:data heap:8M
expect_fail "a heap that does not exist is named" "no-such-heap" pageless copy file:data heap:8M,name=no-such-heap

serve heap:8M
check "nbdcopy writes all of it" nbdcopy data "$uri"
check "nbdcopy reads it back" nbdcopy "$uri" back
check "the bytes are the same" cmp data back
check "qemu-io writes, reads and compares" qemu-io -f raw "$uri" -c "write -P 0x5a 512 3k" -c "read -P 0x5a 512 3k"
stop_serving
