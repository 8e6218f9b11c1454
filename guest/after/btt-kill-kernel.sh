# SPDX-License-Identifier: MIT OR Apache-2.0
# What the kernel's BTT is after a cut: to our check, and to our device, which finishes what was cut off and reads everything.
btt_after_cut "$folder/nvdimm-plain.img"
