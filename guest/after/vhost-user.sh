# SPDX-License-Identifier: MIT OR Apache-2.0
# Whether the servers were killed as often as asked for, and what the last of them made of it.
killed_enough() { [ "$(wc -l <"$folder/kills")" -eq "${PAGELESS_CUTS:-3}" ] && echo "$(wc -l <"$folder/kills") kills of each server"; }

# What a server said at its end of the way that bytes went.
went() { # what pattern
    grep -Eh "^$1: .*$2" "$folder/servers"
}

after "the servers were killed" killed_enough
after "no server ended in another way than it was told to" test 3 -eq "$(grep -c 'ended with 0$' "$folder/servers")"
after "pmem: what moved was copied, since the disk is memory" went pmem "copy +[1-9]"
after "btt: the same" went btt "copy +[1-9]"
after "file: the guest's memory was the buffer" went file "direct +[1-9]"
after "pmem: the host finds the file system sound" debian_run e2fsck -fn "$folder/vhost-pmem.img"
after "btt: it is consistent" "$pageless" btt check "$folder/vhost-btt.img"
