# SPDX-License-Identifier: MIT OR Apache-2.0
#: about    disks of a virtual machine by vhost-user: file systems on two queues, and a server that is killed under load
#: devices  vhost-user=pmem vhost-user=file,event_idx=off vhost-user=btt,indirect_desc=off
#: programs e2fsck fio xfs_repair
#: kernels  6.12 7.3
#: seconds  900

kills=$(sed 's/.*kills=\([0-9]*\).*/\1/' /proc/cmdline)
modprobe -a virtio_blk ext4 xfs

# In the order of the header.
each() { # function: with device, name and file system of each disk
    local disk IFS=:
    for disk in vdb:pmem:ext4 vdc:file:xfs vdd:btt:ext4; do
        # shellcheck disable=SC2086 # three words
        set -- "$1" $disk
        IFS=' ' "$@"
    done
}

make() { # file system, device
    case $1 in
        ext4) mkfs.ext4 -q -F -E nodiscard "/dev/$2" ;;
        xfs) mkfs.xfs -q -f "/dev/$2" ;;
    esac
}

verify="--ioengine=libaio --direct=1 --iodepth=16 --numjobs=2 --size=16M --bsrange=4k-64k --verify=crc32c --verify_fatal=1 --group_reporting"

try() { # device name
    local filesystem
    check_equal "$2: queues" 2 "$(ls "/sys/block/$1/mq" | wc -l)"
    check_equal "$2: cache" "write back" "$(cat "/sys/block/$1/queue/write_cache")"
    mkdir -p "/mnt/$2"
    # shellcheck disable=SC2086 # words
    check "$2: fio verifies the raw disk" fio --name=raw --filename="/dev/$1" --rw=randwrite $verify --numjobs=1
    check "$2: fio discards and writes" fio --name=trim --filename="/dev/$1" --rw=trimwrite --bs=64k --size=16M --ioengine=psync --direct=1
    for filesystem in xfs ext4; do
        check "$2: $filesystem is made" make $filesystem "$1"
        check "$2: $filesystem is mounted" mount -t $filesystem "/dev/$1" "/mnt/$2"
        # shellcheck disable=SC2086 # words
        check "$2: $filesystem: fio verifies on both queues" fio --name=v --directory="/mnt/$2" --rw=randrw --fsync=32 $verify
        random_file "/mnt/$2/data" 32
        cp "/mnt/$2/data" data
        rm "/mnt/$2/v.0.0" "/mnt/$2/v.1.0"
        sync
        check_says "$2: $filesystem: what was removed is discarded" "[1-9][0-9]* bytes trimmed" fstrim -v "/mnt/$2"
        check "$2: $filesystem: unmounted" umount "/mnt/$2"
        check "$2: $filesystem: mounted again" mount -t $filesystem "/dev/$1" "/mnt/$2"
        check "$2: $filesystem: the bytes are the same" cmp data "/mnt/$2/data"
        umount "/mnt/$2"
    done
}

begin_load() { # device name file system
    make "$3" "$1"
    mount -t "$3" "/dev/$1" "/mnt/$2"
    (
        until [ -e /tmp/enough ]; do
            # shellcheck disable=SC2086 # words
            fio --name=v --directory="/mnt/$2" --rw=randrw --fsync=32 --verify_backlog=64 $verify >"/tmp/load-$2" 2>&1 || exit 1
            echo round >>"/tmp/rounds-$2"
        done
    ) &
    echo $! >"/tmp/load-pid-$2"
}

# Requests that a disk has ended.
ended() { awk '{print $1 + $5 + $12 + $16}' "/sys/block/$1/stat"; }

note_progress() { ended "$1" >"/tmp/progress-$2"; }
goes_on() { await progressed "$1" "$2" || echo "$2" >>/tmp/stuck; }
progressed() { [ $(($(ended "$1"))) -gt $(($(cat "/tmp/progress-$2") + 100)) ]; }

end_load() { # device name file system
    check "$2: every byte under load was right" wait "$(cat "/tmp/load-pid-$2")"
    note "$2: $(wc -l <"/tmp/rounds-$2") rounds of fio"
    cp "/mnt/$2/v.0.0" data
    umount "/mnt/$2"
    check "$2: $3 is sound" sound "$3" "$1"
    mount -t "$3" "/dev/$1" "/mnt/$2"
    check "$2: it is all there when it is mounted again" cmp data "/mnt/$2/v.0.0"
    umount "/mnt/$2"
}

sound() { # file system, device
    case $1 in
        ext4) e2fsck -fn "/dev/$2" ;;
        xfs) xfs_repair -n "/dev/$2" ;;
    esac
}

each try
each begin_load
for kill in $(seq "$kills"); do
    each note_progress
    each goes_on
    echo "@kill"
    sleep 1
done
each note_progress
each goes_on
touch /tmp/enough
each end_load
check_equal "disks that did not go on after a kill" "" "$(cat /tmp/stuck 2>/dev/null)"
check_equal "errors that the kernel saw" "" "$(dmesg | grep -iE 'I/O error|timed out|blocked for|corrupt')"
