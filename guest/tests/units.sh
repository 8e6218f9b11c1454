# SPDX-License-Identifier: MIT OR Apache-2.0
#: about    the tests of the lower crates, on a kernel that lacks nothing they need
#: tests    pageless-sys pageless-mem
#: kernels  6.12 7.3
#: seconds  300

# The emulated CLWB touches nothing, so it cannot fault.
run_tests write_back_reaches_every_line_and_survives_a_fault
