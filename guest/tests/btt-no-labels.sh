# SPDX-License-Identifier: MIT OR Apache-2.0
#: about    a namespace without labels, which has no UUID: the kernel and we refuse a BTT of a namespace that has one, and open our own
#: devices  nvdimm-plain
#: kernels  6.12 7.3
#: seconds  120

modprobe -a nfit nd_pmem nd_btt
raw=/dev/pmem0
await ls $raw

# What the kernel takes it for: "pmem0s" is a BTT, "pmem0" is not.
taken_for() {
    ndctl disable-namespace all >/dev/null 2>&1
    ndctl enable-namespace all >/dev/null 2>&1
    await ls -d /sys/block/pmem0*
    basename /sys/block/pmem0*
}

other=abababab-abab-abab-abab-abababababab
check "a BTT that is made in a file, for another namespace" \
    pageless btt create foreign --size "$(blockdev --getsize64 $raw)" --parent-uuid $other
check "gets onto this one" dd if=foreign of=$raw bs=1M conv=fsync
check_equal "the kernel does not take it for its own" pmem0 "$(taken_for)"
expect_fail "nor do we" "parent_uuid $other: this has no UUID" pageless btt check $raw
expect_fail "nor is one made for another" "parent_uuid $other: the namespace has no UUID" pageless btt create $raw --force --parent-uuid $other
check_says "who says whose it is may read it out" "consistent" pageless btt check $raw --parent-uuid $other
check "a BTT for it" pageless btt create $raw --force
serve btt:$raw
stop_serving
check_equal "the kernel takes that for its own" pmem0s "$(taken_for)"
