# SPDX-License-Identifier: MIT OR Apache-2.0
#: about    a device is unplugged while its BAR is copied and served: errors, never garbage, and the process lives
#: devices  ivshmem=64M
#: programs qemu-io
#: kernels  6.12 7.3
#: seconds  300

bar=$(ivshmem_bar)
function=$(pci_function 0x1af4 0x1110)
random_file data 64
check "copy a file into the BAR" pageless copy file:data "$bar"

# A mapping of a BAR whose device is gone raises no signal: loads return zeroes, as if they were data. So whoever copies must
# ask whether the function is still there before it says that the bytes are good.
serve "$bar"
check "a pattern in the BAR" qemu-io -f raw "$uri" -c "write -P 0x5a 0 32M"

# A client that compares what it reads until it is told of an error.
( while qemu-io -f raw "$uri" -c "read -P 0x5a 0 8M"; do :; done ) >/tmp/reads 2>&1 &
reader=$!
# And copies, each compared with what the BAR holds.
dd if=/dev/zero bs=1M count=32 2>/dev/null | tr '\0' '\132' >pattern
( rounds=0
  while :; do
      pageless copy "$bar" file:copied,size=64M >/tmp/copy 2>&1
      status=$?
      [ $status -eq 0 ] || break
      cmp -n 33554432 pattern copied || echo "GARBAGE in round $rounds"
      rounds=$((rounds + 1))
  done
  echo "exit $status after $rounds rounds" ) >/tmp/copies 2>&1 &
copier=$!
check "reads and copies are under way" await grep -q 'read 8388608' /tmp/reads
# Of these the device may also go between two; so it does from under one more, that has begun and has not ended.
freeze_copy "$bar" begun 64M
host device_del ivshmem
check "the device goes" await gone "/sys/bus/pci/devices/$function"
wait $reader
wait $copier

note "reads: $(grep -c '^read 8388608' /tmp/reads), then: $(tail -n 1 /tmp/reads)"
note "copies: $(tail -n 1 /tmp/copies), the last: $(tr '\n' ' ' </tmp/copy)"
check_equal "reads that were acknowledged and wrong" 0 "$(grep -c 'verification failed' /tmp/reads)"
check_says "the last read is an error" "read failed" cat /tmp/reads
check_equal "copies that said they were good and were not" 0 "$(grep -c GARBAGE /tmp/copies)"
check_says "the last copy ends with an error, not with a signal" "exit 1 after" cat /tmp/copies
stopped='cannot [a-z]* at byte [1-9][0-9]*: gone'
expect_fail "a copy that had begun ends where it was, with an error" "^exit 1: .*$stopped" thaw_copy
note "$(cat /tmp/said)"
moved=$(sed -n 's/.* at byte \([0-9]*\): .*/\1/p' /tmp/said)
check "and what it had moved until there is good" cmp -n "${moved:-0}" pattern begun
expect_fail "a write is an error now" "write failed" qemu-io -f raw "$uri" -c "write -P 0xa5 0 1M"
expect_fail "so is a read" "read failed" qemu-io -f raw "$uri" -c "read 48M 4k"
check "the server lives" kill -0 $server
stop_serving
expect_fail "a new copy is told that there is no such function" "$function" pageless copy "$bar" null:64M
check_equal "which is not what one that had begun is told" 0 "$(grep -cE "$stopped" /tmp/said)"
