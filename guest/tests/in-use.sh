# SPDX-License-Identifier: MIT OR Apache-2.0
#: about    a namespace that the kernel uses, mounted or as its own BTT: refused with the name of who has it, and not a byte is written
#: devices  nvdimm
#: programs qemu-io
#: kernels  6.12 7.3
#: seconds  300

modprobe -a nfit nd_pmem nd_btt ext4
hash() { dd if="$1" bs=1M iflag=direct 2>/dev/null | md5sum; }

# Whoever would write it is refused, for this reason, and leaves it as it is.
left_alone() { # what pattern path pattern-for-pmem
    local before
    sync
    before=$(hash "$disk")
    expect_fail "$1: btt create" "$2" pageless btt create "$3"
    expect_fail "$1: btt create --force" "$2" pageless btt create "$3" --force
    expect_fail "$1: btt create --size" "$2" pageless btt create "$3" --force --size 32M
    expect_fail "$1: btt repair --apply" "$2" pageless btt repair "$3" --apply
    expect_fail "$1: serve btt:" "$2" pageless serve "btt:$3" --nbd unix:/tmp/refused.sock
    expect_fail "$1: serve btt:, made anew" "$2" pageless serve "btt:$3,size=32M" --nbd unix:/tmp/refused.sock
    expect_fail "$1: copy to btt:" "$2" pageless copy ram:24M "btt:$3"
    expect_fail "$1: serve file:" "$2" pageless serve "file:$3" --nbd unix:/tmp/refused.sock
    expect_fail "$1: serve pmem:" "$4" pageless serve "pmem:$3" --nbd unix:/tmp/refused.sock
    sync
    check_equal "$1: no byte of it is another" "$before" "$(hash "$disk")"
}

# Not through the page cache of the block device alone: the file system would not know.
namespace raw -s 64M
disk=/dev/$namespace
# Nothing that the file system goes on doing by itself.
mkfs.ext4 -q -F -b 4096 -E lazy_itable_init=0,lazy_journal_init=0 "$disk"
mkdir -p /mnt/in-use
check "a file system on the namespace" mount -t ext4 -o noatime "$disk" /mnt/in-use
echo kept >/mnt/in-use/file
expect_fail "mkfs sees it too" "mounted|in use" mkfs.ext4 -q "$disk"
left_alone mounted "cannot open $disk: EBUSY" "$disk" "no regular file, so it cannot be mapped"
expect_fail "who has it is told, and how to get it back" "help: it is mounted at /mnt/in-use: umount /mnt/in-use" pageless btt create "$disk"
expect_fail "the same of a disk" "help: it is mounted at /mnt/in-use: umount /mnt/in-use" pageless serve "btt:$disk" --nbd unix:/tmp/refused.sock
check_equal "the file system has its file" kept "$(cat /mnt/in-use/file)"
umount /mnt/in-use
check "it is mounted again" mount -t ext4 "$disk" /mnt/in-use
check_equal "and has it still" kept "$(cat /mnt/in-use/file)"
umount /mnt/in-use

# The other way round: what we have, the kernel does not mount.
check "nobody has it any more" pageless btt create "$disk" --force
serve "btt:$disk"
expect_fail "what is served is not mounted" "busy" sh -c "mount -t ext4 $disk /mnt/in-use || exit 1"
expect_fail "nor made anew" "is in use by|EBUSY" pageless btt create "$disk" --force
check "it is a disk all the while" qemu-io -f raw "$uri" -c "write -P 0x5a 1M 64k" -c "read -P 0x5a 1M 64k"
stop_serving
check_says "and consistent" "consistent" pageless btt check "$disk"

# What it was made with is the namespace's name; one with another name is not opened.
uuid=$(cat /sys/bus/nd/devices/namespace0.0/uuid)
check_says "its parent is the namespace" "parent_uuid +$uuid" pageless btt info "$disk"
other=abababab-abab-abab-abab-abababababab
expect_fail "another parent is refused" "parent_uuid $other: the namespace is $uuid" pageless btt create "$disk" --force --parent-uuid $other
check "a BTT that is made in a file, for another" pageless btt create foreign --size "$(blockdev --getsize64 "$disk")" --parent-uuid $other
check "and gets onto the namespace" dd if=foreign of="$disk" bs=1M conv=fsync
before=$(hash "$disk")
for command in "btt check" "btt repair" "btt repair --apply"; do
    # shellcheck disable=SC2086 # words
    expect_fail "$command: is not of this namespace" "parent_uuid $other: this is $uuid" pageless $command "$disk"
done
expect_fail "serve: is not of this namespace" "parent_uuid $other: this is $uuid" pageless serve "btt:$disk" --nbd unix:/tmp/refused.sock
check_equal "nor changed" "$before" "$(hash "$disk")"
check "who says whose it is may read it out" pageless copy "btt:$disk,parent=$other" null:1G
check_says "and look at it" "consistent" pageless btt check "$disk" --parent-uuid $other
ndctl destroy-namespace -f all >/dev/null 2>&1

# The kernel's own BTT: the namespace's block device is gone, and there is another.
namespace sector -s 64M
disk=/dev/$namespace
raw=${disk%s}
check_equal "the kernel's disk" "$disk block" "${raw}s $([ -b "$disk" ] && echo block)"
check "of which the raw namespace is gone" gone "$raw"
dd if=/dev/urandom of="$disk" bs=1M count=8 oflag=direct 2>/dev/null
left_alone "the kernel's BTT" "there is no $raw: ENOENT" "$raw" "there is no $raw: ENOENT"
expect_fail "which has it is told" "help: the kernel's BTT has the namespace and is $disk: use that" pageless btt check "$raw"
check "no file is left in place of the device" gone "$raw"
mkfs.ext4 -q -F -b 4096 -E lazy_itable_init=0,lazy_journal_init=0 "$disk"
check "a file system on the kernel's BTT" mount -t ext4 -o noatime "$disk" /mnt/in-use
left_alone "mounted, the kernel's BTT" "cannot open $disk: EBUSY" "$disk" "no regular file, so it cannot be mapped"
umount /mnt/in-use
