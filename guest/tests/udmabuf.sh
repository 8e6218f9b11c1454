# SPDX-License-Identifier: MIT OR Apache-2.0
#: about    a dma-buf made of a memfd: page-less when mapped, bounced, served
#: programs nbdcopy qemu-io
#: kernels  6.12 7.3

random_file data 8
probe udmabuf:8M is=page-less bytes=8388608 cpu_map=ok short_pin=EFAULT long_pin=EFAULT send=ok send_zerocopy=EFAULT
check_says "copy a file into it" '"bounce":8388608.*"verified":true' pageless copy file:data udmabuf:8M --verify --json
check_says "the reason is named" "page-less \(O_DIRECT: EFAULT\), bounced" pageless copy file:data udmabuf:8M
serve udmabuf:8M
check "nbdcopy writes all of it" nbdcopy data "$uri"
check "nbdcopy reads it back" nbdcopy "$uri" back
check "the bytes are the same" cmp data back
check "qemu-io writes, reads and compares" qemu-io -f raw "$uri" -c "write -P 0x5a 512 3k" -c "read -P 0x5a 512 3k"
stop_serving
