# SPDX-License-Identifier: MIT OR Apache-2.0
#: about    persistent memory and ordinary memory that go bad under a copy and a served disk: media error, and the rest lives
#: devices  nvdimm
#: built    physical hwpoison
#: programs nbdcopy qemu-io strace
#: kernels  6.12 7.3
#: seconds  300

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
check_says "the list is shown before anybody touches it" "bad: 4096 bytes at $bad \(the kernel's badblocks\)" pageless region probe $spec
check_says "and for programs" "\"bad\":\[\{\"offset\":$bad,\"bytes\":4096," pageless region probe $spec --json
expect_fail "a copy by the CPU ends at that very byte" "at byte $bad: media error" pageless copy $spec ram:16M
expect_fail "a direct one at the first transfer that has it" "at byte $bad: media error" pageless copy $spec file:out,size=16M --block 4K
serve $spec
check "what lies before it is read" qemu-io -f raw "$uri" -c "read 0 $bad"
check "what lies behind it is read" qemu-io -f raw "$uri" -c "read $((bad + 4096)) 4M"
expect_fail "the bad block is an I/O error" "Input/output error" qemu-io -f raw "$uri" -c "read $bad 4096"
expect_fail "so is a read across it" "Input/output error" qemu-io -f raw "$uri" -c "read $((bad - 4096)) 12k"
check "a write beside it is taken" qemu-io -f raw "$uri" -c "write -P 0x5a $((bad - 4096)) 4096" -c "read -P 0x5a $((bad - 4096)) 4096"
expect_fail "nbdcopy is told" "Input/output error" nbdcopy "$uri" copied
check "the server goes on" qemu-io -f raw "$uri" -c "read 0 4M" -c flush
expect_fail "a write to a part of it leaves it bad" "Input/output error" qemu-io -f raw "$uri" -c "write -P 0x77 $bad 512"
qemu-io -f raw "$uri" -c "write -P 0x77 $bad 4096" >overwritten 2>&1 || true
echo "overwritten whole: $(grep -v bytes/sec overwritten | head -n 1); on the list then: $(cat "/sys/block/$namespace/badblocks")"
# No kernel clears it in place here (the device has no ARS): what works is that the file system puts the block elsewhere.
if grep -q "Input/output error" overwritten; then
    expect_fail "what could not be cleared is still an I/O error" "Input/output error" qemu-io -f raw "$uri" -c "read $bad 4096"
else
    check "what was cleared holds what was written" qemu-io -f raw "$uri" -c "read -P 0x77 $bad 4096"
fi
check "nothing else was touched" qemu-io -f raw "$uri" -c "read -P 0x5a $((bad - 4096)) 4096"
stop_serving

# A BTT whose one written sector goes bad: that sector fails, and a write of it goes elsewhere and heals it.
check "a BTT on persistent memory" pageless btt create /mnt/dax/btt --size 32M
serve btt:/mnt/dax/btt
check "btt: a sector is written" qemu-io -f raw "$uri" -c "write -P 0x77 2M 4096" -c flush
stop_serving
# Where its bytes are: among the blocks that were free, at the end.
tail=$((4 * 1024 * 1024))
line=$(tail -c $tail /mnt/dax/btt | od -An -v -tx1 -w4096 | grep -n '^ 77 77 77 77' | head -n 1 | cut -d: -f1)
at=$((32 * 1024 * 1024 - tail + (line - 1) * 4096))
sector=$(($(physical /mnt/dax/btt $at) / 512))
umount /mnt/dax
echo "$sector 8" >"/sys/block/$namespace/badblocks"
check "btt: mount it again" mount -t ext4 -o dax=always "/dev/$namespace" /mnt/dax
serve btt:/mnt/dax/btt
expect_fail "btt: the bad sector is an I/O error" "Input/output error" qemu-io -f raw "$uri" -c "read 2M 4096"
check "btt: its neighbours are read" qemu-io -f raw "$uri" -c "read -P 0 1M 1M" -c "read -P 0 2101248 1M"
check "btt: the sector is written again" qemu-io -f raw "$uri" -c "write -P 0x78 2M 4096" -c flush
check "btt: and read" qemu-io -f raw "$uri" -c "read -P 0x78 2M 4096"
stop_serving
check_says "btt: a check finds it consistent" "consistent" pageless btt check /mnt/dax/btt

# Memory that goes bad while it is served, in a file on tmpfs: whoever touches it next gets a signal.
launch strace -f -qq -e trace=none -e signal=SIGBUS -o signals pageless serve pmem:/dev/shm/disk,size=16M
check "tmpfs: every page is there" qemu-io -f raw "$uri" -c "write -P 0x5a 0 16M" -c "read -P 0x5a 0 16M"
check "tmpfs: a page goes bad" hwpoison /dev/shm/disk $bad
check "tmpfs: what lies before it is read" qemu-io -f raw "$uri" -c "read -P 0x5a 0 $bad"
check "tmpfs: what lies behind it is read" qemu-io -f raw "$uri" -c "read -P 0x5a $((bad + 4096)) 4M"
expect_fail "tmpfs: the bad page is an I/O error" "Input/output error" qemu-io -f raw "$uri" -c "read $bad 4096"
check "tmpfs: the server says which it is, and how it knows" await grep -q ": 4096 bytes at $bad (a memory error) of its memory are bad" /tmp/serve.log
touched=$(grep -c BUS_MCEERR_AR signals)
expect_fail "tmpfs: so is a read across it" "Input/output error" qemu-io -f raw "$uri" -c "read $((bad - 4096)) 12k"
check_says "tmpfs: it was a SIGBUS for memory that failed" "SIGBUS.*BUS_MCEERR_AR" cat signals
check "tmpfs: the server lives" kill -0 "$server"
check "tmpfs: a write beside it is taken" qemu-io -f raw "$uri" -c "write -P 0xa5 $((bad + 4096)) 4096" -c "read -P 0xa5 $((bad + 4096)) 4096"
expect_fail "tmpfs: a write to a part of it leaves it bad" "Input/output error" qemu-io -f raw "$uri" -c "write -P 0x77 $bad 512"
check "tmpfs: overwritten whole it is sound again" qemu-io -f raw "$uri" -c "write -P 0x77 $bad 4096" -c "read -P 0x77 $bad 4096"
check "tmpfs: the server says so" await grep -q ": 4096 bytes at $bad (a memory error) of its memory are good again" /tmp/serve.log
check_equal "tmpfs: nobody touched it after the first time" "$touched" "$(grep -c BUS_MCEERR_AR signals)"
stop_serving
check "tmpfs: a copy has all of it" pageless copy pmem:/dev/shm/disk ram:16M --verify
check "tmpfs: the page goes bad once more" hwpoison /dev/shm/disk $bad
expect_fail "tmpfs: a copy ends at that very byte" "at byte $bad: media error" pageless copy pmem:/dev/shm/disk ram:16M

# The namespace itself, through the page cache of its block device: the kernel's list is known before anybody touches it.
umount /mnt/dax
raw=/dev/$namespace
check "raw: a BTT on the block device" pageless btt create "$raw" --force
serve "btt:$raw"
check "raw: a sector is written" qemu-io -f raw "$uri" -c "write -P 0x79 2M 4096" -c flush
stop_serving
size=$(blockdev --getsize64 "$raw")
first=$(((size - tail) / 4096)) # among the last blocks, as before
line=$(dd if="$raw" bs=4096 skip=$first 2>/dev/null | od -An -v -tx1 -w4096 | grep -n '^ 79 79 79 79' | head -n 1 | cut -d: -f1)
echo "$(((first + line - 1) * 8)) 8" >"/sys/block/$namespace/badblocks"
echo 1 >/proc/sys/vm/drop_caches
launch strace -f -qq -e trace=none -e signal=SIGBUS -o signals pageless serve "btt:$raw"
expect_fail "raw: the bad sector is an I/O error" "Input/output error" qemu-io -f raw "$uri" -c "read 2M 4096"
check "raw: its neighbours are read" qemu-io -f raw "$uri" -c "read -P 0 1M 1M" -c "read -P 0 2101248 1M"
# What the kernel finds meanwhile is known as well.
check "raw: the first block of the second half goes bad" sh -c "echo '$((size / 1024)) 8' >/sys/block/$namespace/badblocks"
check "raw: the server says so" await grep -q ": 4096 bytes at $((size / 2)) (the kernel's badblocks) of its memory are bad" /tmp/serve.log
check "raw: the sector is written again, and read" qemu-io -f raw "$uri" -c "write -P 0x7a 2M 4096" -c flush -c "read -P 0x7a 2M 4096"
stop_serving
check_equal "raw: nobody has touched it" 0 "$(grep -c SIGBUS signals)"
check_says "raw: a check finds it consistent" "consistent" pageless btt check "$raw"
