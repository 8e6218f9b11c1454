# SPDX-License-Identifier: MIT OR Apache-2.0
#: about    the tests of the lower crates, on a kernel that lacks nothing they need
#: tests    pageless-sys pageless-mem
#: kernels  6.12 7.3
#: seconds  300

# The emulated CLWB touches nothing, so it cannot fault.
without=write_back_reaches_every_line_and_survives_a_fault

for binary in /guest/tests/*; do
    name=$(basename "$binary")
    tests=$("$binary" --list 2>/dev/null | grep -v $without | grep -c ': test$')
    [ "$tests" -gt 0 ] || continue # an example, or tests of another configuration
    check_says "$name: $tests tests" "test result: ok. $tests passed" "$binary" --show-output --skip $without
    cp /tmp/said "/tmp/$name.said"
done
cat /tmp/*.said | grep '^skipped:' | sort -u | sed 's/^/# /'
check_equal "tests skipped for want of a kernel feature" 0 "$(cat /tmp/*.said | grep -c '^skipped: kernel lacks')"
