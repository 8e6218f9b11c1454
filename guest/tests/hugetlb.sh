# SPDX-License-Identifier: MIT OR Apache-2.0
#: about    reserved huge pages, and their absence
#: programs nbdcopy
#: kernels  6.12 7.3

random_file data 8
echo 2 >/proc/sys/vm/nr_hugepages
expect_fail "more than is reserved is refused, with the numbers" "nr_hugepages" pageless copy file:data hugetlb:8M
echo 8 >/proc/sys/vm/nr_hugepages
check_equal "huge pages reserved" 8 "$(cat /proc/sys/vm/nr_hugepages)"
probe hugetlb:8M is=page-backed bytes=8388608 cpu_map=ok short_pin=ok long_pin=ok send=ok send_zerocopy=ok
probe_flag hugetlb:8M ht
check_says "copy a file into them" '"direct":8388608,"bounce":0.*"verified":true' pageless copy file:data hugetlb:8M --verify --json
serve hugetlb:8M
check "nbdcopy writes all of it" nbdcopy data "$uri"
check "nbdcopy reads it back" nbdcopy "$uri" back
check "the bytes are the same" cmp data back
stop_serving
check_equal "and all of them are free again" 8 "$(sed -n 's/^HugePages_Free: *//p' /proc/meminfo)"
