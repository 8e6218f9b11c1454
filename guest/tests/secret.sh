# SPDX-License-Identifier: MIT OR Apache-2.0
#: about    secret memory: the kernel has pages for it and refuses to pin them
#: programs nbdcopy qemu-io
#: kernels  6.12 7.3

random_file data 4
probe secret:4M is=unpinnable bytes=4194304 cpu_map=ok short_pin=EFAULT long_pin=EFAULT send=ok send_zerocopy=EFAULT
check_says "copy a file into it" '"bounce":4194304.*"verified":true' pageless copy file:data secret:4M --verify --json
check_says "the reason is named" "unpinnable \(O_DIRECT: EFAULT\), bounced" pageless copy file:data secret:4M
serve secret:4M
check "nbdcopy writes all of it" nbdcopy data "$uri"
check "nbdcopy reads it back" nbdcopy "$uri" back
check "the bytes are the same" cmp data back
stop_serving

# Root may map more than `ulimit -l` allows, but what is beyond it faults: the copy ends at that byte and says so.
ulimit -l 1024
expect_fail "memory beyond ulimit -l faults, and the fault is contained" "cannot write at byte 1048576: media error" \
    pageless copy file:data secret:4M
