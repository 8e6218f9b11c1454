# SPDX-License-Identifier: MIT OR Apache-2.0
#: about    files mapped from persistent memory: read into by O_DIRECT, and truncated, punched, collapsed and closed meanwhile
#: devices  nvdimm
#: tests    pageless-drivers
#: kernels  6.12 7.3
#: seconds  500

export PAGELESS_DAX_DIR=/mnt/dax PAGELESS_DISK_DIR=/disk PAGELESS_ROUNDS=$(count 30 100)

for filesystem in ext4 xfs; do
    fsdax $filesystem || continue
    for binary in dax_file dax_file_changes dax_file_transfer dax_file_load; do
        check_says "$filesystem: $binary" "test result: ok. [1-9]" /guest/tests/$binary --test-threads=1 --show-output
        grep -E 'MAP_SYNC|rounds|page cache|skipped:' /tmp/said | sort -u | head -n 8 | sed 's/^/# /'
    done
    umount /mnt/dax
    ndctl destroy-namespace -f all >/dev/null 2>&1
done
