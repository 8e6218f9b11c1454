# SPDX-License-Identifier: MIT OR Apache-2.0
# What our BTT is after a cut. It is recovered here on a copy, and by the guest of the next round where it lies.
read -r _ offset size < <(grep '^data ' "$folder/told")
rm -f "$folder/slice"
dd if="$folder/nvdimm.img" of="$folder/slice" bs=4096 skip=$((offset / 4096)) count=$((size / 4096)) conv=sparse 2>/dev/null
truncate -s "$size" "$folder/slice"
btt_after_cut "$folder/slice"
