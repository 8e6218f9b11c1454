# SPDX-License-Identifier: MIT OR Apache-2.0
# Whether it did move, with its test still going on.
after "the machine has moved" test "$moved" -eq 1
