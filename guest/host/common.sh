# SPDX-License-Identifier: MIT OR Apache-2.0
# Where things are, and how to run what setup.sh unpacked. Read by guest/run and by the scripts beside this one.

guest=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
root=$(dirname "$guest")
work=$root/target/guest       # everything that is made; `rm -r` it to fetch newer packages and kernels
debian=$work/debian           # packages, unpacked and never installed
qemu10=$work/qemu10           # the same for QEMU 10
libraries=$debian/lib/x86_64-linux-gnu:$debian/usr/lib/x86_64-linux-gnu
loader=$debian/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2

not_obtainable=77             # the exit code that means: no such kernel in the archive

say() { printf 'guest: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# The file of a program among the unpacked packages.
unpacked() { # name
    local folder file
    for folder in usr/bin usr/sbin bin sbin; do
        file=$debian/$folder/$1
        # A link with a full path, as kmod's names are, means the unpacked file and not this machine's, which may have none.
        case $(readlink "$file" || true) in /*) file=$debian$(readlink "$file") ;; esac
        if [ -x "$file" ]; then echo "$file"; return; fi
    done
    die "$1 is in none of the packages that setup.sh unpacks"
}

# Runs an unpacked program on its own libraries, not on this machine's.
debian_run() { # name argument...
    local name=$1
    shift
    "$loader" --library-path "$libraries" --argv0 "$name" "$(readlink -f "$(unpacked "$name")")" "$@"
}

# A cpio archive of a folder, as the kernel unpacks it.
archive() { # folder archive
    (cd "$1" && find . -mindepth 1 -print0 | LC_ALL=C sort -z | debian_run cpio --null --create --format=newc --quiet) >"$2.part"
    mv "$2.part" "$2"
}

# Copies programs and the libraries they need into a folder that becomes part of the guest's file system.
# The libraries are those of the unpacked packages, or of this machine for what was built on it.
install_programs() { # folder unpacked|built file...
    local into=$1 whose=$2 file library
    shift 2
    mkdir -p "$into/usr/bin" "$into/usr/lib/x86_64-linux-gnu" "$into/usr/lib64"
    for file; do
        cp -L "$file" "$into/usr/bin/"
        case $whose in
            unpacked) "$loader" --library-path "$libraries" --list "$file" 2>/dev/null || true ;;
            built) ldd "$file" 2>/dev/null || true ;;
        esac | grep -o '/[^ ]*' | sort -u | while read -r library; do
            case $library in
                */ld-linux-x86-64.so.2) cp -L "$library" "$into/usr/lib64/" ;;
                *) cp -L "$library" "$into/usr/lib/x86_64-linux-gnu/" ;;
            esac
        done
    done
}
