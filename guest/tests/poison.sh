# SPDX-License-Identifier: MIT OR Apache-2.0
#: about    a bad block of persistent memory under a copy and under a served disk: media error at the byte, and the rest lives
#: devices  nvdimm
#: built    physical
#: programs nbdcopy qemu-io
#: kernels  6.12 7.3

fsdax ext4
random_file data 16
check "a file on persistent memory" pageless copy file:data pmem:/mnt/dax/disk,size=16M --verify

# The 4 KiB at 8 MiB + 4 KiB of the file go bad, as they would after an uncorrectable error that the firmware reported.
bad=$((8 * 1024 * 1024 + 4096))
sector=$(($(physical /mnt/dax/disk $bad) / 512))
umount /mnt/dax
echo "$sector 8" >"/sys/block/$namespace/badblocks"
check_says "the kernel knows of the bad block" "^$sector 8" cat "/sys/block/$namespace/badblocks"
check "mount it again" mount -t ext4 -o dax=always "/dev/$namespace" /mnt/dax
expect_fail "the kernel itself cannot read it" "Input/output error" dd if=/mnt/dax/disk of=/dev/null bs=4096 skip=$((bad / 4096)) count=1

spec=pmem:/mnt/dax/disk
expect_fail "a copy ends there and says so" "media error" pageless copy $spec file:out,size=16M
note "$(tail -n 2 /tmp/said | head -n 1)"
serve $spec
check "what lies before it is read" qemu-io -f raw "$uri" -c "read 0 $bad"
check "what lies behind it is read" qemu-io -f raw "$uri" -c "read $((bad + 4096)) 4M"
expect_fail "the bad block is an I/O error" "Input/output error" qemu-io -f raw "$uri" -c "read $bad 4096"
expect_fail "so is a read across it" "Input/output error" qemu-io -f raw "$uri" -c "read $((bad - 4096)) 12k"
check "a write beside it is taken" qemu-io -f raw "$uri" -c "write -P 0x5a $((bad - 4096)) 4096" -c "read -P 0x5a $((bad - 4096)) 4096"
expect_fail "nbdcopy is told" "Input/output error" nbdcopy "$uri" copied
check "the server goes on" qemu-io -f raw "$uri" -c "read 0 4M" -c flush
stop_serving
