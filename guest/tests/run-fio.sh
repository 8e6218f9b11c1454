# SPDX-License-Identifier: MIT OR Apache-2.0
#: about    programs that nobody changed: fio with its buffers in a BAR fails alone, and verifies under `pageless run`
#: devices  ivshmem nvme
#: programs fio
#: kernels  6.12 7.3
#: seconds  300

function=$(pci_function 0x1af4 0x1110)
resource=/sys/bus/pci/devices/$function/resource2
modprobe nvme
check "an NVMe disk" await ls /dev/nvme0n1

# Its I/O buffers are in the BAR.
job="fio --name=job --direct=1 --iomem=mmapshared:$resource"
verify="--size=4M --rw=randwrite --bs=16k --iodepth=8 --verify=crc32c --verify_fatal=1 --do_verify=1"

# shellcheck disable=SC2086 # words
for engine in psync pvsync2 libaio; do
    for target in /disk/file /dev/nvme0n1; do
        with="--ioengine=$engine --filename=$target $verify"
        expect_fail "alone: fio $engine on $target" "Bad address" $job $with
        check "under pageless run: fio $engine on $target" pageless run -- $job $with
    done
done
check_says "it says what it bounced" "bounced" pageless run --stats -- $job --ioengine=psync --filename=/disk/file $verify

# What was written from the BAR is on the disk, for others to read.
# shellcheck disable=SC2086
check "fio writes a pattern from the BAR" pageless run -- $job --ioengine=libaio --filename=/disk/pattern --rw=write --iodepth=4 --size=2M --bs=64k --buffer_pattern='"pageless"'
yes pageless | tr -d '\n' | head -c 2097152 >want
check "cmp, which knows of nothing, finds it" cmp want /disk/pattern
