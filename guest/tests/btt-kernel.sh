# SPDX-License-Identifier: MIT OR Apache-2.0
#: about    one BTT, the kernel's driver and ours by turns: each writes, the other checks and reads; ndctl's own check
#: devices  nvdimm
#: programs nbdcopy nbdinfo qemu-io
#: kernels  6.12 7.3
#: seconds  900

modprobe -a nfit nd_pmem nd_btt
await ls /sys/bus/nd/devices/region0
dd if=/dev/urandom of=data bs=1M count=32 2>/dev/null
raw=/dev/pmem0    # the namespace's own bytes, when it is ours
disk=/dev/pmem0s  # the disk in it, when it is the kernel's

# Labels of version 1.2 make the kernel lay out BTT 2.0, those before it 1.1.
labels() { # version
    { ndctl disable-region region0 && ndctl init-labels -f -V "$1" nmem0 && ndctl enable-region region0; } >/tmp/said 2>&1
}

# Takes the namespace from the kernel's BTT driver; what is left of it is a block device with the bytes as they are.
to_us() {
    {
        ndctl disable-namespace all
        echo 1 >/sys/bus/nd/devices/namespace0.0/force_raw
        echo namespace0.0 >/sys/bus/nd/drivers/nd_pmem/bind
    } >/tmp/said 2>&1
    await ls $raw
}

to_kernel() {
    {
        echo namespace0.0 >/sys/bus/nd/drivers/nd_pmem/unbind
        echo 0 >/sys/bus/nd/devices/namespace0.0/force_raw
        ndctl enable-namespace namespace0.0
    } >/tmp/said 2>&1
    await ls $disk
}

hash() { md5sum "$@" | cut -d' ' -f1; }

# Writes of whole blocks, one to eight at a time, all over the disk; the same for the same seed.
writes() { # seed
    awk -v seed="$1" -v block="$block" -v blocks="$blocks" 'BEGIN {
        srand(seed)
        for (i = 0; i < 120; i++) {
            len = 1 + int(rand() * 8)
            printf "write -P %d %d %d\n", 1 + int(rand() * 255), int(rand() * (blocks - len)) * block, len * block
        }
    }'
}

# What ndctl says of the BTT that the kernel made there. It refuses some that the kernel itself made: then that is what it must
# go on saying, and no finding may come with it.
ndctl_check() {
    ndctl disable-namespace namespace0.0 >/dev/null 2>&1
    ndctl check-namespace -v namespace0.0 2>&1 | sed -n 's/^checked/checked/p; s/^namespace0.0: \(.*: [A-Z].*\)/\1/p' | sort -u | tr '\n' ';'
    ndctl enable-namespace namespace0.0 >/dev/null 2>&1
    await ls $disk
}

by_turns() { # version lbasize block rounds
    local what="BTT $1, $2" round before
    block=$3
    if ! ndctl create-namespace -f -r region0 -m sector -s 32M -l "$2" >/tmp/namespace 2>&1; then
        not_ok "$what: the kernel makes it" "ndctl refuses" /tmp/namespace
        return
    fi
    await ls $disk
    blocks=$(($(blockdev --getsize64 $disk) / block))
    check_equal "$what: the kernel's block" "$block" "$(cat /sys/block/pmem0s/queue/logical_block_size)"
    head -c $((blocks * block)) data >mirror
    dd if=mirror of=$disk bs=1M oflag=direct 2>/dev/null
    before=$(ndctl_check)
    note "$what: ndctl says: $before"
    case $2 in 512 | 4096 | 4160 | 4224) check_equal "$what: ndctl finds the kernel's own clean" "checked 1 namespace;" "$before" ;; esac

    for round in $(seq "$4"); do
        writes "$2$round$1" | qemu-io -f raw $disk >/dev/null 2>/tmp/said
        writes "$2$round$1" | qemu-io -f raw mirror >/dev/null
        check_equal "$what, turn $round: the kernel reads what it wrote" "$(hash mirror)" "$(hash $disk)"

        to_us
        check_says "$what, turn $round: our check of the kernel's" "consistent" pageless btt check $raw
        check_says "$what, turn $round: which version" "BTT $1 .* $blocks blocks of $2 bytes" pageless btt info $raw
        serve btt:$raw
        check_equal "$what, turn $round: we read what the kernel wrote" "$(hash mirror)" "$(nbdcopy "$uri" - | hash)"
        writes "9$2$round$1" | qemu-io -f raw "$uri" >/dev/null 2>/tmp/said
        writes "9$2$round$1" | qemu-io -f raw mirror >/dev/null
        check_equal "$what, turn $round: we read what we wrote" "$(hash mirror)" "$(nbdcopy "$uri" - | hash)"
        stop_serving
        check_says "$what, turn $round: our check of ours" "consistent" pageless btt check $raw

        to_kernel
        check_equal "$what, turn $round: the kernel reads what we wrote" "$(hash mirror)" "$(hash $disk)"
        check_equal "$what, turn $round: ndctl's check of ours" "$before" "$(ndctl_check)"
    done
    ndctl destroy-namespace -f all >/dev/null 2>&1
}

# One that we make, in the kernel's hands.
of_ours() { # version lbasize block
    local what="our BTT $1, $2"
    block=$3
    ndctl create-namespace -f -r region0 -m sector -s 32M -l "$2" >/tmp/namespace 2>&1 || not_ok "$what: a namespace" "ndctl refuses" /tmp/namespace
    await ls $disk
    to_us
    check "$what: we make it" pageless btt create $raw --force --layout "$1" --sector-size "$2"
    blocks=$(pageless btt info $raw --json | sed -n 's/.*"external_nlba":\([0-9]*\).*/\1/p')
    head -c $((blocks * block)) data >mirror
    serve btt:$raw
    check_says "$what: what it is safe from is told" "if the process dies, not if power does: this is a page cache" cat /tmp/serve.log
    check "$what: we fill it" nbdcopy mirror "$uri"
    stop_serving
    to_kernel
    check_equal "$what: the kernel has as many blocks of as many bytes" "$block $((blocks * block))" \
        "$(cat /sys/block/pmem0s/queue/logical_block_size) $(blockdev --getsize64 $disk)"
    check_equal "$what: the kernel reads what we wrote" "$(hash mirror)" "$(hash $disk)"
    writes "o$2$1" | qemu-io -f raw $disk >/dev/null 2>/tmp/said
    writes "o$2$1" | qemu-io -f raw mirror >/dev/null
    check_equal "$what: ndctl finds it clean" "checked 1 namespace;" "$(ndctl_check)"
    to_us
    check_says "$what: our check of what the kernel wrote" "consistent" pageless btt check $raw
    serve btt:$raw
    check_equal "$what: we read what the kernel wrote" "$(hash mirror)" "$(nbdcopy "$uri" - | hash)"
    stop_serving
    to_kernel
    ndctl destroy-namespace -f all >/dev/null 2>&1
}

# In a full run every size, and more turns where most disks are; else those that differ most: blocks of both lengths, alone in their lines
# and with bytes beside them.
turns=$(count 1 3)
labels 1.1
by_turns 1.1 4096 4096 "$turns"
for size in $(count "4160" "512 4160"); do by_turns 1.1 "$size" $((size < 4096 ? 512 : 4096)) 1; done
of_ours 1.1 4096 4096
labels 1.2
of_ours 2.0 512 512
by_turns 2.0 512 512 "$turns"
for size in $(count "528 4104" "520 528 4096 4104 4160 4224"); do by_turns 2.0 "$size" $((size < 4096 ? 512 : 4096)) 1; done
