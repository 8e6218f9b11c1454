# SPDX-License-Identifier: MIT OR Apache-2.0
# What a test of guest/tests/ is written with. It runs inside the guest, in busybox's shell, as root, in a folder on an
# ext4 disk that takes O_DIRECT. Everything said here goes to the host as TAP.

checks=0
failures=0
complete=

# One of two counts: of every day, and of a release.
count() { if grep -qw full /proc/cmdline; then echo "$2"; else echo "$1"; fi; }

# ---- verdicts

ok() { # name
    checks=$((checks + 1))
    echo "ok $checks - $1"
}

not_ok() { # name reason [file to show]
    checks=$((checks + 1))
    failures=$((failures + 1))
    echo "not ok $checks - $1: $2"
    [ -z "${3:-}" ] || tail -n 40 "$3" | cut -c 1-300 | sed 's/^/#   /'
}

note() { echo "# $*"; }

# Passes when the command succeeds.
check() { # name command...
    local name="$1" status=0
    shift
    "$@" >/tmp/said 2>&1 || status=$?
    if [ $status -eq 0 ]; then ok "$name"; else not_ok "$name" "exit $status of: $*" /tmp/said; fi
}

# Passes when the command succeeds and says something that matches.
check_says() { # name pattern command...
    local name="$1" pattern="$2" status=0
    shift 2
    "$@" >/tmp/said 2>&1 || status=$?
    if [ $status -ne 0 ]; then
        not_ok "$name" "exit $status of: $*" /tmp/said
    elif grep -qE -e "$pattern" /tmp/said; then
        ok "$name"
    else
        not_ok "$name" "nothing matches /$pattern/ in what was said by: $*" /tmp/said
    fi
}

# Passes when the command fails by itself, not by a signal, and says something that matches.
expect_fail() { # name pattern command...
    local name="$1" pattern="$2" status=0
    shift 2
    "$@" >/tmp/said 2>&1 || status=$?
    if [ $status -eq 0 ]; then
        not_ok "$name" "succeeded: $*" /tmp/said
    elif [ $status -ge 128 ]; then
        not_ok "$name" "died of signal $((status - 128)): $*" /tmp/said
    elif grep -qE -e "$pattern" /tmp/said; then
        ok "$name"
    else
        not_ok "$name" "exit $status, but nothing matches /$pattern/ in what was said by: $*" /tmp/said
    fi
}

# Passes when two words are the same.
check_equal() { # name wanted found
    if [ "$2" = "$3" ]; then ok "$1"; else not_ok "$1" "wanted '$2', found '$3'"; fi
}

# Passes when `pageless region probe` finds what is claimed: `probe bar:… is=page-less short_pin=EFAULT send=ok`.
# Only the first word of each answer counts: errnos are followed by their number.
probe() { # spec key=value...
    local spec="$1" claim key found
    shift
    if ! pageless region probe "$spec" --json >/tmp/probe 2>/tmp/said; then
        not_ok "probe $spec" "refused" /tmp/said
        return
    fi
    for claim; do
        key=${claim%%=*}
        found=$(sed -n "s/.*\"$key\":\"\{0,1\}\([^\",} ]*\).*/\1/p" /tmp/probe)
        check_equal "probe ${spec%%,*}: $claim" "${claim#*=}" "$found"
    done
}

# Passes when VmFlags of the probed mapping have a flag.
probe_flag() { # spec flag
    check_says "VmFlags of $1 have $2" "\"vm_flags\":\"[^\"]*\b$2\b" pageless region probe "$1" --json
}

# ---- the workspace's own tests

# Runs every test of the packages in the header's `tests`, but for those whose name has a word. They run where the file system
# takes O_DIRECT, as on any machine.
run_tests() { # word...
    local binary name tests word skip=
    for word; do skip="$skip --skip $word"; done
    cp -r /guest/tests /disk/tests
    for binary in /disk/tests/*; do
        name=$(basename "$binary")
        # shellcheck disable=SC2086 # words
        tests=$("$binary" --list $skip 2>/dev/null | grep -c ': test$')
        [ "$tests" -gt 0 ] || continue # an example, or tests of another configuration
        # shellcheck disable=SC2086
        check_says "$name: $tests tests" "test result: ok. $tests passed" "$binary" --show-output $skip
        cat /tmp/said >>/tmp/every
    done
    grep '^skipped:' /tmp/every | sort -u | sed 's/^/# /'
    check_equal "tests skipped for want of a kernel feature" 0 "$(grep -c '^skipped: kernel lacks' /tmp/every)"
}

# ---- devices

# Asks QEMU's monitor, on the host, for something: `host device_del ivshmem`.
host() { echo "@host $*"; }

# Waits until a command succeeds, at most a minute.
await() { # command...
    local tries=600
    until "$@" >/dev/null 2>&1; do
        tries=$((tries - 1))
        [ $tries -gt 0 ] || return 1
        sleep 0.1
    done
}

gone() { ! [ -e "$1" ]; }

# The address of the first PCI function with this vendor and device, as in `0000:01:00.0`.
pci_function() { # vendor device
    local folder
    for folder in /sys/bus/pci/devices/*; do
        if [ "$(cat "$folder/vendor") $(cat "$folder/device")" = "$1 $2" ]; then
            basename "$folder"
            return
        fi
    done
    return 1
}

# The BAR spec of the ivshmem device: memory of the host, 16 MiB unless the header says more.
ivshmem_bar() { echo "bar:$(pci_function 0x1af4 0x1110)/2"; }

# Gives a PCI function to VFIO, whoever has it now.
bind_vfio() { # function
    local folder=/sys/bus/pci/devices/$1
    modprobe -a vfio_iommu_type1 vfio-pci
    [ ! -e "$folder/driver" ] || echo "$1" >"$folder/driver/unbind"
    echo vfio-pci >"$folder/driver_override"
    echo "$1" >/sys/bus/pci/drivers_probe
    check_equal "$1 is bound to" vfio-pci "$(basename "$(readlink "$folder/driver")")"
}

# A namespace on the nvdimm: `namespace fsdax -s 128M`; what it is called is left in $namespace (pmem0, dax0.0).
namespace() { # mode [argument of ndctl...]
    local mode=$1
    shift
    modprobe -a nfit nd_pmem dax_pmem device_dax
    await ls /sys/bus/nd/devices/region0
    if [ ! -e /tmp/labels ]; then
        { ndctl disable-region region0 && ndctl init-labels -f nmem0 && ndctl enable-region region0; } >/tmp/labels 2>&1
    fi
    if ! ndctl create-namespace -f -r region0 -m "$mode" "$@" >/tmp/namespace 2>&1; then
        not_ok "a namespace in mode $mode" "ndctl refuses" /tmp/namespace
        return 1
    fi
    namespace=$(sed -n 's/.*"\(blockdev\|chardev\)":"\([^"]*\)".*/\2/p' /tmp/namespace | head -n 1)
    await ls "/dev/$namespace"
}

# Mounts persistent memory with DAX at /mnt/dax.
fsdax() { # ext4|xfs
    namespace fsdax -s 400M || return 1
    case $1 in
        ext4) mkfs.ext4 -q -F -b 4096 "/dev/$namespace" ;;
        xfs) mkfs.xfs -q -f -m reflink=0 "/dev/$namespace" ;;
    esac
    modprobe "$1"
    mkdir -p /mnt/dax
    check "mount $1 on /dev/$namespace with DAX" mount -t "$1" -o dax=always "/dev/$namespace" /mnt/dax
}

# A byte of a file, as a number.
byte() { # file offset
    od -An -tu1 -j "$2" -N 1 "$1" | tr -d ' '
}

# Pulls the card out of its slot, unasked: cuts the power of the port above the function.
pull_out() { # function
    local port capability control
    port=$(dirname "$(readlink -f "/sys/bus/pci/devices/$1")")/config
    capability=$(byte "$port" 52)
    while [ "$(byte "$port" "$capability")" -ne 16 ]; do # PCI Express
        capability=$(byte "$port" $((capability + 1)))
    done
    # Slot Control, second byte: power off, and the power indicator off with it.
    control=$((capability + 24))
    printf '%b' "\\0$(printf %o $(($(byte "$port" $control) | 0x00)))\\0$(printf %o $(($(byte "$port" $((control + 1))) & ~0x03 | 0x07)))" |
        dd of="$port" bs=2 seek=$((control / 2)) conv=notrunc 2>/dev/null
}

# Random bytes, and a file to compare with afterwards.
random_file() { # path MiB
    dd if=/dev/urandom of="$1" bs=1M count="$2" 2>/dev/null
}

# ---- pageless as a copier

# Begins a copy into a file and stops its process in the middle, $frozen, so that something can happen to it there.
freeze_copy() { # source file size
    local state=
    rm -f "$2"
    truncate -s "$3" "$2" # one that the copy makes goes with it when it fails
    pageless copy "$1" "file:$2" --block 4K --depth 1 >/tmp/frozen 2>&1 &
    frozen=$!
    # At least a mebibyte is there; `await` would sleep too long.
    until [ "$(stat -c %b "$2" 2>/dev/null || echo 0)" -ge 2048 ] || [ "$state" = Z ]; do
        state=$(cut -d ' ' -f 3 "/proc/$frozen/stat")
    done
    kill -STOP "$frozen"
    await grep -q '^State:.[TtZ]' "/proc/$frozen/status"
    check_equal "a copy of $1 is stopped in the middle: its state" T "$(cut -d ' ' -f 3 "/proc/$frozen/stat")"
}

# Lets it go on to its end, and says in one line what that was.
thaw_copy() {
    local status=0
    kill -CONT "$frozen"
    wait "$frozen" || status=$?
    echo "exit $status: $(tr '\n' ' ' </tmp/frozen)"
    return $status
}

# ---- pageless as a server

# Serves a device over NBD at $uri until `stop_serving`.
serve() { # spec [argument...]
    launch pageless serve "$@"
}

# The same under somebody who starts it: $server is the server, $launched is whom to wait for.
launch() { # command [argument...], which ends with those of `pageless serve`
    local command="$*"
    rm -f /tmp/nbd.sock
    : >/tmp/serve.log # what the last one said is not what this one says
    uri='nbd+unix:///?socket=/tmp/nbd.sock'
    "$@" --nbd unix:/tmp/nbd.sock >/tmp/serve.log 2>&1 &
    launched=$!
    if await grep -q '^ready' /tmp/serve.log; then
        ok "serve ${command##*serve }"
    else
        not_ok "serve ${command##*serve }" "not ready" /tmp/serve.log
    fi
    server=$launched
    [ "$1" != strace ] || read -r server _ <"/proc/$launched/task/$launched/children"
}

# Ends the server as a user would, and passes when it ended well.
stop_serving() {
    local status=0
    kill -INT "$server"
    wait "$launched" || status=$?
    if [ $status -eq 0 ]; then ok "the server ends well"; else not_ok "the server ends well" "exit $status" /tmp/serve.log; fi
}

# ---- the test

finish() {
    [ -n "$complete" ] || { failures=$((failures + 1)); echo "Bail out! the test ended before its last line"; }
    echo "1..$checks"
    echo "@end $failures"
    sync
}

trap finish EXIT
printf '\n@begin\n'
. /guest/test.sh
complete=yes
