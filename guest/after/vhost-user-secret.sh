# SPDX-License-Identifier: MIT OR Apache-2.0
# Which way the bytes went: where the driver touches memory by the CPU, as with any; where it needs the kernel, they are bounced.
went() { grep -Eh "^$1: .*$2" "$folder/servers"; }
after "pmem: copied once" went pmem "copy +[1-9]"
after "file: bounced" went file "bounce +[1-9]"
after "file: because the kernel does not pin it" went file "bounce \\(O_DIRECT: EFAULT"
